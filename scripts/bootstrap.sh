# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by ./demo and ./test, in the checkout: installs what is missing, as root or with sudo, and makes .venv.

fail() {
    echo "$0: $*" >&2
    exit 2
}

# Debian packages whose commands or files are not there.
missing_packages() {
    local tool package
    while read -r tool package; do
        case $tool in
        /*) [[ -e $tool ]] || echo "$package" ;;
        *) command -v "$tool" > /dev/null || echo "$package" ;;
        esac
    done <<- 'END'
		qemu-system-x86_64 qemu-system-x86
		/usr/share/seabios/bios-256k.bin seabios
		gcc gcc
		ld binutils
		/usr/include/stdlib.h libc6-dev
		/usr/include/gelf.h libelf-dev
		make make
		flex flex
		bison bison
		bc bc
		patch patch
		xz xz-utils
		ccache ccache
		mkfs.ext4 e2fsprogs
		systemd-analyze systemd
		python3 python3
	END
    if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
        echo python3-venv
    fi
}

install_packages() {
    local packages sudo=()
    # mkfs.ext4 is in /usr/sbin, which a user's PATH may lack.
    mapfile -t packages < <(PATH="$PATH:/usr/sbin:/sbin" missing_packages | sort -u)
    ((${#packages[@]})) || return 0
    command -v apt-get > /dev/null ||
        fail "these are missing: ${packages[*]}; this is no Debian, so install the like of them by hand"
    if ((EUID)); then
        command -v sudo > /dev/null ||
            fail "these are missing: ${packages[*]}; install them as root with apt-get install, or install sudo"
        sudo=(sudo)
    fi
    echo "Installing from Debian: ${packages[*]}"
    "${sudo[@]}" apt-get -q update > /dev/null || fail "apt-get update failed; see above"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
        "${packages[@]}" > /dev/null || fail "apt-get install failed; see above"
}

make_venv() {
    local stamp
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "python3 is $(python3 --version); Python 3.11 or newer is needed, put one first in PATH"
    stamp=$({ python3 -VV; command -v python3; cat pyproject.toml src/ptshare/preload/*.[ch]; } | sha256sum)
    if [[ -x .venv/bin/ptshare && -f .venv/stamp && $(< .venv/stamp) == "$stamp" ]]; then
        return
    fi
    echo "Making .venv with $(python3 --version): the project and its tools, from PyPI"
    python3 -m venv --clear .venv ||
        fail "python3 -m venv failed for $(command -v python3); install that Python's venv and ensurepip modules"
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        .venv/bin/python -m pip install -q -e '.[lab,dev]' || fail "pip install failed; see above"
    echo "$stamp" > .venv/stamp
}

install_packages
make_venv
