"""A GPU instance on AWS with everything it needs, up to a Docker engine that answers."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws
from pulumi_command import local

from components import pins
from components.aws.alarms import Alarms, AlarmsArgs
from components.aws.firewall import Firewall, FirewallArgs
from components.aws.network import Network, NetworkArgs
from components.aws.role import Role, RoleArgs
from components.aws.snapshots import Snapshots, SnapshotsArgs
from components.boot_script import Boot, render
from components.instance_types import ROOT_GIB, InstanceType
from components.labels import Labels
from components.ssh_config import USER, Access

AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
READY_SECONDS = 1200
SNAPSHOTS = 7
INTERPRETER = ("sh", "components/over_ssh.sh")


@dataclass(frozen=True, kw_only=True)
class GpuHostArgs:
    """`host_key` is the private SSH host key, a secret. `ssh_config` is a path on the deployer's machine."""

    labels: Labels
    zone: str
    instance: InstanceType
    allowed: tuple[str, ...]
    admins: tuple[str, ...]
    access: Access
    domain: str
    hosted_zone: str
    ami: str
    ami_refresh: str
    data_gib: int
    spot: bool
    protect: bool
    idle_minutes: int
    email: str
    budget: int
    log_days: int
    client_public_key: str
    host_key: pulumi.Input[str]
    ssh_config: str


class GpuHost(pulumi.ComponentResource):
    """`address` is what `DOCKER_HOST` takes; it is known once the host is ready."""

    instance: aws.ec2.Instance
    ip: pulumi.Output[str]
    address: pulumi.Output[str]
    log_group: str

    def __init__(self, name: str, args: GpuHostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:GpuHost", name, None, opts)
        labels = args.labels
        region = args.zone[:-1]
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

        namespace = f"Changeover/{labels.stack}"
        network = Network("network", NetworkArgs(zone=args.zone, tags=tags("network")), components)
        firewall = Firewall(
            "firewall",
            FirewallArgs(
                vpc_id=network.vpc_id,
                allowed=args.allowed,
                admins=args.admins if args.access == "direct" else (),
                certificates=bool(args.domain),
                tags=tags("firewall"),
            ),
            components,
        )
        self.log_group = f"/{labels.project}/{labels.stack}/access"
        logs = aws.cloudwatch.LogGroup(
            "access-log",
            name=self.log_group,
            retention_in_days=args.log_days,
            tags=tags("access-log"),
            opts=child,
        )
        host_key = aws.ssm.Parameter(
            "host-key",
            name=f"/{labels.project}/{labels.stack}/host-key",
            type="SecureString",
            value=pulumi.Output.secret(args.host_key),
            tags=tags("host-key"),
            opts=child,
        )
        role = Role(
            "role",
            RoleArgs(parameter=host_key.arn, log_group=logs.arn, namespace=namespace, tags=tags("role")),
            components,
        )
        key = aws.ec2.KeyPair(
            "deployer",
            key_name=labels.name("deployer"),
            public_key=args.client_public_key,
            tags=tags("deployer"),
            opts=child,
        )
        data = aws.ebs.Volume(
            "data",
            availability_zone=args.zone,
            size=args.data_gib,
            type="gp3",
            encrypted=True,
            tags=tags("data"),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                protect=args.protect,  # hours of download, and the certificates
            ),
        )
        ami: pulumi.Input[str] = args.ami
        if not args.ami:
            # Kept in a parameter of the stack's own: a newer `latest` changes nothing. A refresh is another
            # parameter, which takes what is the newest then.
            pin = aws.ssm.Parameter(
                "-".join(filter(None, ["ami", args.ami_refresh])),
                name="/".join(filter(None, ["", labels.project, labels.stack, "ami", args.ami_refresh])),
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
        self.instance = aws.ec2.Instance(
            "instance",
            ami=ami,
            instance_type=args.instance.name,
            subnet_id=network.subnet_id,
            vpc_security_group_ids=[firewall.group_id],
            iam_instance_profile=role.profile,
            key_name=key.key_name,
            associate_public_ip_address=True,  # the boot script needs a way out before the address is there
            metadata_options=aws.ec2.InstanceMetadataOptionsArgs(
                http_tokens="required",
                http_put_response_hop_limit=1,  # containers get no credentials of the host
            ),
            root_block_device=aws.ec2.InstanceRootBlockDeviceArgs(
                volume_type="gp3", volume_size=ROOT_GIB, encrypted=True, tags=tags("root")
            ),
            instance_market_options=spot if args.spot else None,
            disable_api_termination=args.protect,
            user_data=data.id.apply(
                lambda volume: render(
                    Boot(
                        region=region,
                        data_volume=volume,
                        host_key_parameter=f"/{labels.project}/{labels.stack}/host-key",
                        namespace=namespace,
                    )
                )
            ),
            user_data_replace_on_change=True,  # it runs at the first boot only
            tags=tags("host"),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=provider,
                protect=args.protect,
                delete_before_replace=True,  # one data volume, one address
                depends_on=[network.routed, *role.ready],  # the boot script uses all of it
            ),
        )
        attached = aws.ec2.VolumeAttachment(
            "data-attachment",
            instance_id=self.instance.id,
            volume_id=data.id,
            device_name="/dev/sdf",
            stop_instance_before_detaching=True,  # Docker writes on it as long as the instance runs
            opts=child,
        )
        address = aws.ec2.Eip("address", domain="vpc", tags=tags("address"), opts=child)
        associated = aws.ec2.EipAssociation(
            "address-association", instance_id=self.instance.id, allocation_id=address.id, opts=child
        )
        self.ip = address.public_ip
        if args.hosted_zone:
            zone = aws.route53.get_zone_output(
                name=args.hosted_zone, opts=pulumi.InvokeOutputOptions(parent=self, provider=provider)
            )
            aws.route53.Record(
                "record",
                zone_id=zone.zone_id,
                name=args.domain,
                type="A",
                ttl=60,
                records=[address.public_ip],
                opts=child,
            )
        if args.protect:
            Snapshots(
                "snapshots",
                SnapshotsArgs(
                    target_tags={"Name": labels.name("data")}, keep=SNAPSHOTS, tags=tags("snapshots")
                ),
                components,
            )
        Alarms(
            "alarms",
            AlarmsArgs(
                instance_id=self.instance.id,
                namespace=namespace,
                region=region,
                email=args.email,
                budget=args.budget,
                idle_minutes=args.idle_minutes,
                labels=tags("alarms"),
            ),
            components,
        )
        there = self.instance.id if args.access == "ssm" else address.public_ip
        docker_host = there.apply(lambda target: f"ssh://{USER}@{target}")
        ready = local.Command(
            "ready",
            create="exec sh components/aws/ready.sh",
            interpreter=list(INTERPRETER),
            environment={
                "DOCKER_HOST": docker_host,
                "CHANGEOVER_SSH_CONFIG": args.ssh_config,
                "GPUS": str(args.instance.gpus),
                "DRIVER": str(pins.DRIVER),
                "DEADLINE": str(READY_SECONDS),
            },
            triggers=[self.instance.id],
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[attached, associated], deleted_with=self.instance
            ),
        )
        # Through the step's id: the docker provider never retries and may not come before the host is ready.
        self.address = pulumi.Output.all(docker_host, ready.id).apply(lambda both: str(both[0]))
        self.register_outputs({"ip": self.ip, "address": self.address})
