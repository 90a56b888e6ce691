#!/bin/sh
# Installs the Debian packages that building and testing cpp/ needs, or says which are missing.
set -eu
cd "$(dirname "$0")"
missing=
for package in $(cat packages.txt packages-fuzz.txt); do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Building and testing cpp/ needs these Debian packages, or what they are elsewhere:$missing" >&2
  echo "Install them, as root: apt-get install$missing" >&2
  exit 1
fi
apt-get update --quiet
# shellcheck disable=SC2086  # a list
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $missing
