# What deploy/demo and deploy/test share. Sourced, not run; $root is the top of the project.

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "needs root, for network namespaces and AF_XDP: run it as root, or with sudo"
}

# packages SECTION...: the packages of these sections of deploy/packages.
packages() {
    local section
    for section in "$@"; do
        awk -v wanted="[$section]" '
            /^#/ || NF == 0 { next }
            /^\[/ { in_it = ($0 == wanted); next }
            in_it { print $1 }' "$root/deploy/packages"
    done
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# install_packages SECTION...: installs what is missing, and starts no service on the way.
install_packages() {
    local package missing=() policy=/usr/sbin/policy-rc.d log status=0
    for package in $(packages "$@"); do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "needs these packages, and this machine has no apt-get to install them with: ${missing[*]}"
    say "Installing ${missing[*]}"
    log=$(mktemp)
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1 </dev/null || status=$?
    if [ "$(trap -p EXIT)" ]; then
        rm -f $policy
        trap - EXIT
    fi
    if [ $status -ne 0 ]; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install ${missing[*]}; its log is $log"
    fi
    rm -f "$log"
}

# need_rust: cargo of the version that rust-toolchain.toml names is on PATH afterwards.
need_rust() {
    local home version
    version=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    # Under sudo the toolchain is usually that of the person who typed it.
    for home in "$HOME" "$([ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6)"; do
        command -v cargo >/dev/null && break
        if [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ]; then
            export PATH="$home/.cargo/bin:$PATH" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
        fi
    done
    if ! command -v cargo >/dev/null; then
        say "Installing Rust $version with rustup"
        curl --proto '=https' --tlsv1.2 --connect-timeout 20 -sSf https://sh.rustup.rs 2>/dev/null |
            sh -s -- -y --quiet --profile minimal --default-toolchain "$version" \
                --component clippy,rustfmt >/dev/null 2>&1 || true
        export PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cargo >/dev/null ||
        fail "needs Rust $version, and rustup could not be fetched: install it (https://rustup.rs), then run this again"
    (cd "$root" && cargo --version >/dev/null 2>&1) ||
        (cd "$root" && rustup toolchain install "$version" --profile minimal --component clippy,rustfmt) ||
        fail "needs Rust $version: \`rustup toolchain install $version\` could not fetch it"
}

# What was built under sudo belongs to the person who typed it.
give_back() {
    if [ -n "${SUDO_USER:-}" ] && [ -d "$target" ]; then
        chown -R "$SUDO_USER" "$target" 2>/dev/null || true
    fi
}
