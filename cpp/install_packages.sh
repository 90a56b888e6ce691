#!/bin/sh
# Installs the Debian packages that building cpp/ needs, and with --tests what its sanitizers and
# fuzz targets need too. Without root or apt it says which are missing, and fails.
set -eu
cd "$(dirname "$0")"
lists=packages.txt
[ "${1:-}" != --tests ] || lists="packages.txt packages-tests.txt"
missing=
# shellcheck disable=SC2086  # lists
for package in $(cat $lists); do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "cpp/ needs these Debian packages, or what they are called elsewhere:$missing" >&2
  echo "Install them, as root: apt-get install$missing" >&2
  exit 1
fi
retry='-o Acquire::Retries=3'
# shellcheck disable=SC2086
apt-get update --quiet $retry
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $retry $missing
