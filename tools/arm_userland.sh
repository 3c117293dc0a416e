#!/bin/sh
# Make an aarch64 userland to run the agent in without a board: Debian packages and Python wheels unpacked into one folder,
# and a QEMU of version 10 or newer (7.2, Debian 12's own, crashes on current onnxruntime). No root, no chroot, no binfmt.
# usage: arm_userland.sh FOLDER
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' | awk '$2 == "main" && $1 ~ /\/debian\/$/ { print $1; exit }')
[ -n "$mirror" ] || { echo "no Debian package source is configured on this machine; arm-check needs one" >&2; exit 1; }

# What apt needs to work on lists of its own: nothing of this machine's package state is touched.
apt_in() {
  state=$1; shift
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/parts"; : >> "$state/status"
  apt-get -qq -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts="$state/parts" \
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o APT::Install-Recommends=0 -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" "$@"
}

if [ ! -e "$folder/userland.done" ]; then
  echo "aarch64 Debian packages ..."
  state=$folder/apt-userland; mkdir -p "$state" "$folder/debian"
  echo "deb [arch=arm64 signed-by=$keyring] $mirror bookworm main" > "$state/sources.list"
  arm="-o APT::Architecture=arm64 -o APT::Architectures::=arm64"
  apt_in "$state" $arm update
  apt_in "$state" $arm install -y --download-only python3 libstdc++6 libgcc-s1 >/dev/null
  for package in "$state"/cache/archives/*.deb; do dpkg-deb -x "$package" "$folder/debian"; done
  touch "$folder/userland.done"
fi

if [ ! -e "$folder/qemu.done" ]; then
  echo "QEMU ..."
  state=$folder/apt-qemu; mkdir -p "$state" "$folder/qemu"
  echo "deb [signed-by=$keyring] $mirror trixie main" > "$state/sources.list"
  apt_in "$state" update
  (cd "$state" && apt_in "$state" download qemu-user && dpkg-deb -x qemu-user_*.deb "$folder/qemu")
  "$folder/qemu/usr/bin/qemu-aarch64" --version | head -1
  touch "$folder/qemu.done"
fi

wheels="--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64
  --platform manylinux2014_aarch64 --only-binary=:all: --python-version 3.11 --implementation cp --quiet --disable-pip-version-check"
pinned=$(sha256sum "$here/requirements/agent.txt" | cut -c1-16)
if [ ! -e "$folder/site.$pinned" ]; then
  echo "aarch64 wheels of requirements/agent.txt ..."
  rm -rf "$folder/site" "$folder"/site.*
  "$here/.venv/bin/python" -m pip install --target "$folder/site" $wheels --require-hashes -r "$here/requirements/agent.txt"
  touch "$folder/site.$pinned"
fi

# A release that dies with an illegal instruction on Cortex-A53 and A72: what the self-test must refuse.
if [ ! -e "$folder/broken.done" ]; then
  echo "onnxruntime 1.21.0, which dies on some of these processors ..."
  "$here/.venv/bin/python" -m pip install --target "$folder/broken" --no-deps $wheels \
    --require-hashes -r "$here/tools/arm_broken_runtime.txt"
  touch "$folder/broken.done"
fi
