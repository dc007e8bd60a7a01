#!/bin/sh
# Builds the image and runs it where there is no container engine: buildah, with a chroot for isolation.
# By hand, as root, with access to a package index:
#
#   apt-get install buildah debootstrap iproute2
#   packaging/check-container.sh
#
# The base image is made of Debian packages and imported under the name that the Dockerfile starts from, so
# its steps run as they stand. What python:3.11-slim has beyond that is not checked, nor are resource limits.
set -eu

cd "$(dirname "$0")/.."
work=$(mktemp -d)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
finish() {
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }

say "base image"
debootstrap --variant=minbase --include=ca-certificates,python3-pip,python3-venv bookworm "$work/base" >"$work/log" ||
    { tail "$work/log"; exit 1; }
ln -s python3 "$work/base/usr/bin/python"
rm "$work/base/usr/lib/python3.11/EXTERNALLY-MANAGED" # python:3.11-slim has no such mark
cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/" # whom this machine trusts, the build does
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/base" / >/dev/null
buildah commit --quiet "$base" docker.io/library/python:3.11-slim >/dev/null

say "build"
buildah bud --format docker --pull-never --tag penstock .
buildah inspect --type image --format \
    '{{.Docker.Config.User}} {{.Docker.Config.Volumes}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Healthcheck}}' penstock

# As ENTRYPOINT and HEALTHCHECK have it, in a network of its own, for the ports may be taken here.
say "run"
container=$(buildah from --pull-never penstock)
cat >"$work/session" <<'END'
id
penstock serve --data /data --host 0.0.0.0 --http-host 0.0.0.0 >/tmp/ready &
broker=$!
until [ -s /tmp/ready ]; do
    kill -0 $broker
    sleep 0.1
done
cat /tmp/ready
penstock health
penstock queue create jobs
penstock enqueue jobs hello
penstock receive jobs
kill -TERM $broker
wait $broker
echo "stopped with $?"
if penstock health; then exit 1; fi
ls -ln /data
END
buildah copy --quiet "$container" "$work/session" /session >/dev/null
unshare --net sh -c "ip link set lo up
    exec buildah --root $work/storage --runroot $work/run run $container -- sh -eu /session"
