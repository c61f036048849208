
# The values above are all that differs between stacks. Cron runs this on the host once a minute: it tells CloudWatch
# 1 while requests are answered, and else 0, also while they wait.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin # cron's own has no /usr/local/bin
running() { [ -n "$(docker ps --quiet --filter "label=changeover.role=$1" --filter "$2")" ]; }
# The switch has them wait where no engine has passed its gate, or the gateway doesn't run. Where the switch itself
# doesn't run, nobody would notice.
flowing() { grep -qs '"held_since": null' "$DATA_MOUNT"/docker/volumes/*-live/_data/route.json; }
up=0
running edge status=running && running proxy health=healthy && running switch status=running &&
  running engine health=healthy && flowing && up=1
token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
id=$(curl -fsS -H "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/instance-id)
exec aws cloudwatch put-metric-data --region "$REGION" --namespace "$NAMESPACE" --metric-name EndpointUp \
  --value "$up" --dimensions "InstanceId=$id"
