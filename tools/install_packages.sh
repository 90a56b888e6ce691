#!/bin/sh
# Installs the Debian packages that the given lists name, but for those that are there as packages or
# as commands: install_packages.sh LIST... Without root or apt it says which are missing, and fails.
set -eu
missing=
# shellcheck disable=SC2013  # words
for package in $(cat "$@"); do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    command -v "$package" >/dev/null || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "These Debian packages are missing, or what they are called elsewhere:$missing" >&2
  echo "Install them, as root: apt-get install$missing" >&2
  exit 1
fi
retry='-o Acquire::Retries=3'
# shellcheck disable=SC2086
apt-get update --quiet $retry
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $retry $missing
