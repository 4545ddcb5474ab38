#!/bin/sh
# The main path with the real crictl, as someone at a terminal would walk it.
#
#   CRICTL    the crictl to use            (crictl)
#   ENDPOINT  where the runtime listens    (unix:///run/crisp/crisp.sock)
#   IMAGE     an image with a shell, on a registry the runtime may pull from
#   WORK      a directory for logs and configurations (a temporary one)
#   CGROUP_PARENT  the pod's cgroup parent (the runtime's own choice)
set -eu

CRICTL=${CRICTL:-crictl}
ENDPOINT=${ENDPOINT:-unix:///run/crisp/crisp.sock}
IMAGE=${IMAGE:?an image with a shell}
WORK=${WORK:-$(mktemp -d)}
cd "$WORK"

crictl() {
    "$CRICTL" --config /dev/null --runtime-endpoint "$ENDPOINT" --image-endpoint "$ENDPOINT" --timeout 30s "$@"
}

# expect TEXT COMMAND...: the command succeeds and its output holds TEXT.
expect() {
    wanted=$1
    shift
    said=$("$@" 2>&1) || { echo "FAILED: $*: $said"; exit 1; }
    case $said in
        *"$wanted"*) echo "ok: $1 $2 ($wanted)" ;;
        *) echo "FAILED: $*: no \"$wanted\" in: $said"; exit 1 ;;
    esac
}

# Waits for a condition, for at most ten seconds.
wait_for() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "FAILED: never: $*"; exit 1; }
        sleep 0.05
    done
}

cat > pod.json <<JSON
{
  "metadata": { "name": "main-path", "namespace": "default", "uid": "crictl-main-path", "attempt": 1 },
  "hostname": "main-path",
  "log_directory": "$WORK/crictl-logs",
  "labels": { "walks": "the-main-path" },
  "linux": { "cgroup_parent": "${CGROUP_PARENT:-}" }
}
JSON
cat > container.json <<JSON
{
  "metadata": { "name": "main", "attempt": 0 },
  "image": { "image": "$IMAGE" },
  "command": ["/bin/sh", "-c", "echo hello from \$(hostname); echo oops >&2; trap 'exit 0' TERM; while :; do usleep 20000; done"],
  "log_path": "main.log",
  "linux": {}
}
JSON

expect RuntimeName crictl version
expect RuntimeReady crictl info
expect "sha256:" crictl pull "$IMAGE"
expect "${IMAGE%:*}" crictl images
expect "$IMAGE" crictl inspecti "$IMAGE"
expect "" crictl imagefsinfo

pod=$(crictl runp pod.json)
expect main-path crictl pods
expect Ready crictl pods --id "$pod" --label walks=the-main-path
expect SANDBOX_READY crictl inspectp "$pod"

container=$(crictl create "$pod" container.json pod.json)
expect Created crictl ps --all
expect "$container" crictl start "$container"
expect Running crictl ps
expect CONTAINER_RUNNING crictl inspect "$container"
logs_are_there() { crictl logs "$container" 2>&1 | grep -q 'hello from main-path'; }
wait_for logs_are_there
expect oops crictl logs "$container"
expect "hello from exec" crictl exec --sync "$container" /bin/echo "hello from exec"
if crictl exec --sync "$container" /bin/sh -c 'exit 5' >/dev/null 2>&1; then
    echo "FAILED: a failing command must fail"
    exit 1
fi

expect "$container" crictl stop --timeout 10 "$container"
expect Exited crictl ps --all
expect '"exitCode": 0' crictl inspect "$container"
expect "$container" crictl rm "$container"
expect "$pod" crictl stopp "$pod"
expect NotReady crictl pods
expect "$pod" crictl rmp "$pod"
expect "" crictl rmi "$IMAGE"
[ -z "$(crictl pods --quiet)$(crictl ps --all --quiet)$(crictl images --quiet)" ] || { echo "FAILED: something is left"; exit 1; }
echo "main path: done"
