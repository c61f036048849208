#!/bin/sh
# spot.sh WHAT REGION ...: cancels persistent spot requests. AWS starts another instance for one that lives when its
# own ends, and neither Pulumi nor its provider cancels one (terraform-provider-aws#38142).
#   own REGION INSTANCE    those of an instance, before it goes
#   these REGION ID...     requests and instances by their ids; what is not there or has ended is passed over
#   all REGION KEY         those whose instances have this key (a pattern), and what AWS has started for them by itself;
#                          none whose instance is there and has the stack's tag: AWS ends one that is stopped with its
#                          request (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/interruption-behavior.html)
set -eu
what=$1 region=$2
shift 2
ec2() { aws ec2 "$@" --region "$region" --output text; }
listed() { # the words as one value of a filter
  echo "$*" | tr ' ' ,
}
alive() { # the requests of a filter for which AWS has an instance, or would start one
  ec2 describe-spot-instance-requests --filters "$1" 'Name=state,Values=open,active,disabled' \
    --query 'SpotInstanceRequests[].SpotInstanceRequestId'
}
there() { # one field of the instances of a filter that are there, and of these what a JMESPath filter leaves
  ec2 describe-instances --filters "$2" 'Name=instance-state-name,Values=pending,running,stopping,stopped' \
    --query "Reservations[].Instances[$3].$1"
}
running() { there InstanceId "$@"; }
of() { there SpotInstanceRequestId "$@"; }
cancel() { # no requests are nothing to do
  [ $# -eq 0 ] || ec2 cancel-spot-instance-requests --spot-instance-request-ids "$@" >/dev/null
  [ $# -eq 0 ] || echo "cancelled: $*"
}
end() { # no instances are nothing to do
  [ $# -eq 0 ] || ec2 terminate-instances --instance-ids "$@" >/dev/null
  [ $# -eq 0 ] || echo "ended: $*"
}

# What is looked up goes into a variable first: a command that fails inside of another's words ends nothing.
case $what in
  own)
    found=$(alive "Name=instance-id,Values=$1")
    # shellcheck disable=SC2086 # one id a word, here and below
    cancel $found
    ;;
  these)
    [ $# -gt 0 ] || exit 0
    found=$(alive "Name=spot-instance-request-id,Values=$(listed "$@")")
    # shellcheck disable=SC2086
    cancel $found
    found=$(running "Name=instance-id,Values=$(listed "$@")" '')
    # shellcheck disable=SC2086
    end $found
    ;;
  all)
    found=$(alive "Name=launch.key-name,Values=$1")
    [ -n "$found" ] || exit 0
    # one with the stack's tag was made by an update, and perhaps of a state that is not here
    # shellcheck disable=SC2086
    made=$(of "Name=spot-instance-request-id,Values=$(listed $found)" "?Tags[?Key=='Stack']")
    ours=
    for each in $found; do
      case " $(echo "$made" | tr '\t\n' '  ') " in *" $each "*) ;; *) ours="$ours $each" ;; esac
    done
    [ -n "$ours" ] || exit 0
    # shellcheck disable=SC2086
    found=$(running "Name=spot-instance-request-id,Values=$(listed $ours)" '')
    # shellcheck disable=SC2086
    cancel $ours
    # shellcheck disable=SC2086
    end $found
    ;;
esac
