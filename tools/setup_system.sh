#!/bin/sh
# Install the system packages edgefleet needs when this user may; otherwise say in one line what to install.
set -eu
needed=""
command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] || needed="$needed mosquitto"
command -v mosquitto_pub >/dev/null 2>&1 || needed="$needed mosquitto-clients"
[ -e /usr/lib/softhsm/libsofthsm2.so ] || command -v softhsm2-util >/dev/null 2>&1 || needed="$needed softhsm2"
"${PYTHON:-python3}" -c 'import venv, ensurepip' >/dev/null 2>&1 || needed="$needed python3-venv"
[ -n "$needed" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing system packages:$needed"
  # The distribution's own broker service must not start: edgefleet runs its own.
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $needed >/dev/null
else
  echo "Please install first: sudo apt-get install -y$needed" >&2
  exit 1
fi
