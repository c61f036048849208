"""A GPU instance on AWS with everything it needs, up to a Docker engine that answers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_aws as aws
from pulumi_command import local

from components import pins
from components.aws import spot as spot_requests
from components.aws.alarms import Alarms, AlarmsArgs
from components.aws.firewall import Firewall, FirewallArgs
from components.aws.network import Network, NetworkArgs
from components.aws.role import Role, RoleArgs
from components.aws.settings import AwsSettings
from components.aws.snapshots import Snapshots, SnapshotsArgs
from components.boot_script import DATA_MOUNT, Boot, digest, user_data
from components.facts import environment
from components.instance_types import GPU_WORDS, ROOT_GIB
from components.labels import Labels
from components.ssh_config import USER

AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""The newest Deep Learning Base OSS image. Ten public projects take this parameter; no page of AWS's that
names it could be read here."""
READY_SECONDS = 1200
SNAPSHOTS = 7
INTERPRETER = ("sh", "components/over_ssh.sh")
PUT_THERE = ("probe.sh", "gpu_stays.sh")
PROBE = hashlib.sha256(
    b"".join((Path(__file__).parent / name).read_bytes() for name in PUT_THERE)
).hexdigest()[:12]
"""What tells one version from another of what `ready.sh` brings to the host."""
LOGGED = ("proxy", "edge", "switch")
"""Roles whose log goes to CloudWatch: the access log, Caddy's own with what became of certificates, and the
changes with theirs. Another log driver replaces a container, and the edge's must not be."""


@dataclass(frozen=True, kw_only=True)
class GpuHostArgs:
    """`host_key` is the private SSH host key, a secret. `ssh_config` is a path on the deployer's machine.

    `former_boot`: the instance that is there was made by the boot script as it was so many texts ago, and
    stays. `left_over` are ids of spot requests and instances of this stack that its state does not know.
    """

    labels: Labels
    settings: AwsSettings
    host_key: pulumi.Input[str]
    ssh_config: str
    former_boot: int = 0
    left_over: tuple[str, ...] = ()


def boot(args: GpuHostArgs, data_volume: str) -> Boot:
    """What the boot script of this host is made from."""
    labels = args.labels
    return Boot(
        region=args.settings.region,
        data_volume=data_volume,
        host_key_parameter=f"/{labels.project}/{labels.stack}/host-key",
        namespace=f"Changeover/{labels.stack}",
        former=args.former_boot,
    )


def key_digest(args: GpuHostArgs) -> str:
    """What tells one key of the deployer from another."""
    made = hashlib.sha256(args.settings.public_keys["client"].encode()).hexdigest()
    return made[: spot_requests.KEY_DIGEST]


def identity(args: GpuHostArgs) -> dict[str, str]:
    """Tags of the instance by which a later preview knows in words that it would replace it."""
    return {
        "Boot": digest(boot(args, "")),
        "Image": args.settings.ami or "-".join(filter(None, ["pinned", args.settings.ami_refresh])),
        "Data": args.settings.data_snapshot or "empty",
        "Spot": "yes" if args.settings.spot else "no",
        "Network": args.settings.subnet_id or "own",
        "Key": key_digest(args),
    }


def own_image(labels: Labels, refresh: str) -> str:
    """The stack's own parameter with the machine image that it has taken; each `amiRefresh` has another."""
    return "/".join(["", labels.project, labels.stack, *filter(None, ["ami", refresh])])


class GpuHost(pulumi.ComponentResource):
    """`address` is what `DOCKER_HOST` takes; it is known once the host is ready."""

    instance: aws.ec2.Instance
    ip: pulumi.Output[str]
    address: pulumi.Output[str]
    log_groups: dict[str, str]
    """CloudWatch log group by the role of the container whose log it takes."""

    def __init__(self, name: str, args: GpuHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:GpuHost", name, None, opts)
        labels, wanted = args.labels, args.settings
        region = wanted.region
        provider = aws.Provider("aws", region=region, opts=pulumi.ResourceOptions(parent=self))
        child = pulumi.ResourceOptions(parent=self, provider=provider)
        components = pulumi.ResourceOptions(parent=self, providers=[provider])

        def tags(thing: str) -> dict[str, str]:
            return {
                "Name": labels.name(thing),
                "Project": labels.project,
                "Stack": labels.stack,
                "ManagedBy": "pulumi",
            }

        values = boot(args, "")
        vpc_id: pulumi.Input[str] = wanted.vpc_id
        subnet_id: pulumi.Input[str] = wanted.subnet_id
        routed: list[pulumi.Resource] = []
        if not wanted.subnet_id:
            network = Network(
                labels.name("network"), NetworkArgs(zone=wanted.zone, tags=tags("network")), components
            )
            vpc_id, subnet_id, routed = network.vpc_id, network.subnet_id, [network.routed]
        challenges = ("0.0.0.0/0",) if wanted.public_http else wanted.allowed
        firewall = Firewall(
            labels.name("firewall"),
            FirewallArgs(
                vpc_id=vpc_id,
                allowed=wanted.allowed,
                admins=wanted.admins,
                challenges=challenges if wanted.domain else (),
                tags=tags("firewall"),
            ),
            components,
        )
        self.log_groups = {role: f"/{labels.project}/{labels.stack}/{role}" for role in LOGGED}
        logs = [
            aws.cloudwatch.LogGroup(
                f"{role}-log",
                name=group,
                retention_in_days=wanted.log_days,
                tags=tags(f"{role}-log"),
                opts=child,
            )
            for role, group in self.log_groups.items()
        ]
        host_key = aws.ssm.Parameter(
            "host-key",
            name=values.host_key_parameter,
            type="SecureString",
            value=pulumi.Output.secret(args.host_key),
            tags=tags("host-key"),
            opts=child,
        )
        role = Role(
            labels.name("host"),
            RoleArgs(
                parameter=host_key.arn,
                log_groups=[each.arn for each in logs],
                namespace=values.namespace,
                tags=tags("host"),
            ),
            components,
        )
        key = aws.ec2.KeyPair(
            "deployer",
            # another key has another name, so that it is made before the old one goes: see `subnet_cidr`
            key_name=spot_requests.key_name(labels, key_digest(args)),
            public_key=wanted.public_keys["client"],
            tags=tags("deployer"),
            opts=child,
        )
        data = aws.ebs.Volume(
            "data",
            availability_zone=wanted.zone,
            size=wanted.data_gib,
            type="gp3",
            encrypted=True,
            snapshot_id=wanted.data_snapshot or None,
            tags=tags("data"),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                protect=wanted.protect,  # hours of download, and the certificates
            ),
        )
        ami: pulumi.Input[str] = wanted.ami
        if not wanted.ami:
            # Kept in a parameter of the stack's own: a newer `latest` changes nothing. A refresh is another
            # parameter, which takes what is the newest then.
            pin = aws.ssm.Parameter(
                "-".join(filter(None, ["ami", wanted.ami_refresh])),
                name=own_image(labels, wanted.ami_refresh),
                type="String",
                value=aws.ssm.get_parameter_output(
                    name=AMI_PARAMETER, opts=pulumi.InvokeOutputOptions(parent=self, provider=provider)
                ).value,
                tags=tags("ami"),
                opts=pulumi.ResourceOptions(
                    parent=self,
                    provider=provider,
                    ignore_changes=["value"],  # or an update would replace a running instance by itself
                ),
            )
            ami = pulumi.Output.unsecret(pin.value)
        spot = aws.ec2.InstanceInstanceMarketOptionsArgs(
            market_type="spot",
            spot_options=aws.ec2.InstanceInstanceMarketOptionsSpotOptionsArgs(
                # stopped and started again, so that the same instance comes back with its volumes
                spot_instance_type="persistent",
                instance_interruption_behavior="stop",
            ),
        )
        address = aws.ec2.Eip(
            "address",
            domain="vpc",
            tags=tags("address"),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                protect=wanted.protect,  # clients and name servers know it, and it is never given twice
            ),
        )
        left_over = local.Command(
            "left-over-spot",
            create=spot_requests.cancel_these(region, args.left_over),
            # what lives after the instance has gone: of a create that failed, say
            delete=spot_requests.cancel_all(region, labels),
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                # what was cancelled once is no change when it is there no more
                ignore_changes=[] if args.left_over else ["create"],
            ),
        )
        self.instance = aws.ec2.Instance(
            "instance",
            ami=ami,
            instance_type=wanted.instance.name,
            subnet_id=subnet_id,
            vpc_security_group_ids=[firewall.group_id],
            iam_instance_profile=role.profile,
            key_name=key.key_name,
            # The boot script needs a way out before the address is there. With the address it stays true: the
            # provider reads back whether there is any public address.
            associate_public_ip_address=True,
            metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
                http_tokens="required",
                http_put_response_hop_limit=1,  # containers get no credentials of the host
            ),
            root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
                volume_type="gp3", volume_size=ROOT_GIB, encrypted=True, tags=tags("root")
            ),
            instance_market_options=spot if wanted.spot else None,
            disable_api_termination=wanted.protect,
            force_destroy=True,  # `protect` holds Pulumi back; termination protection is against the console
            user_data=data.id.apply(lambda volume: user_data(boot(args, volume))),
            user_data_replace_on_change=True,  # it runs at the first boot only
            tags=tags("host") | identity(args),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                protect=wanted.protect,
                delete_before_replace=True,  # one data volume, one address
                # to the provider, spot taken away is no change; and AWS changes no spot instance's type
                replace_on_changes=["tags.Spot", *(["instanceType"] if wanted.spot else [])],
                depends_on=[
                    *(*routed, *role.ready, *logs),  # the boot script uses all of it
                    # AWS releases no address of an instance that still ends (InvalidIPAddress.InUse in
                    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ReleaseAddress.html)
                    address,
                    left_over,  # before another instance is there, and after it has gone
                ],
            ),
        )
        local.Command(
            "spot-request",
            # Of every instance: where `spot` goes, Pulumi takes away at the end what is declared no more, and
            # the request has to go before its instance.
            delete=self.instance.id.apply(lambda made: spot_requests.cancel_own(region, made)),
            triggers=[self.instance.id],
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(parent=self),
        )
        gone_with_instance = pulumi.ResourceOptions(
            parent=self,
            provider=provider,
            # a terminated instance has unmounted the disk and let go of both
            deleted_with=self.instance,
        )
        attached = aws.ec2.VolumeAttachment(
            "data-attachment",
            instance_id=self.instance.id,
            volume_id=data.id,
            device_name="/dev/sdf",
            # where the instance is replaced, Pulumi takes this away before it, whatever `deleted_with` says;
            # and AWS detaches no disk that is mounted: it stays busy
            # (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DetachVolume.html)
            skip_destroy=True,
            opts=gone_with_instance,
        )
        associated = aws.ec2.EipAssociation(
            "address-association",
            instance_id=self.instance.id,
            allocation_id=address.id,
            allow_reassociation=True,  # AWS may be slow to take it from an instance that has ended
            opts=gone_with_instance,
        )
        self.ip = address.public_ip
        if wanted.hosted_zone:
            zone = aws.route53.get_zone_output(
                name=wanted.hosted_zone, opts=pulumi.InvokeOutputOptions(parent=self, provider=provider)
            )
            aws.route53.Record(
                "record",
                zone_id=zone.zone_id,
                name=wanted.domain,
                type="A",
                ttl=60,
                records=[address.public_ip],
                opts=child,
            )
        if wanted.protect:
            Snapshots(
                labels.name("snapshots"),
                SnapshotsArgs(
                    target_tags={"Name": labels.name("data")}, keep=SNAPSHOTS, tags=tags("snapshots")
                ),
                components,
            )
        Alarms(
            labels.name("alarms"),
            AlarmsArgs(
                instance_id=self.instance.id,
                namespace=values.namespace,
                region=region,
                email=wanted.email,
                budget=wanted.budget,
                idle_minutes=wanted.idle_minutes,
                labels=tags("alarms"),
            ),
            components,
        )
        there = self.instance.id if wanted.access == "ssm" else address.public_ip
        docker_host = there.apply(lambda target: f"ssh://{USER}@{target}")
        ready = local.Command(
            "ready",
            create="exec sh components/aws/ready.sh",
            interpreter=list(INTERPRETER),
            environment=environment(
                {
                    "DOCKER_HOST": docker_host,
                    "CHANGEOVER_SSH_CONFIG": args.ssh_config,
                    "GPU": GPU_WORDS[wanted.instance.gpu],
                    "GPUS": str(wanted.instance.gpus),
                    "INSTANCE_TYPE": wanted.instance.name,  # another one was stopped and started: wait again
                    "DRIVER": str(pins.DRIVER),
                    "DATA_MOUNT": DATA_MOUNT,
                    "DATA_GIB": str(wanted.data_gib),  # a larger one was grown: its file system has to follow
                    "REGION": region,
                    "NAMESPACE": values.namespace,
                    "PROBE": PROBE,  # another one has to get there
                    "DEADLINE": str(READY_SECONDS),
                }
            ),
            triggers=[self.instance.id],
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[attached, associated], deleted_with=self.instance
            ),
        )
        # Through the step's id: the docker provider never retries and may not come before the host is ready.
        self.address = pulumi.Output.all(docker_host, ready.id).apply(lambda both: str(both[0]))
        self.register_outputs({"ip": self.ip, "address": self.address})
