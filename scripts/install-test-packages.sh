#!/bin/bash
# Installs the Debian packages that the tests run: real servers, their clients, and the tools that make networks.
# Says nothing and takes a moment when everything is there. Leaves no service running.
set -euo pipefail

packages=(
  ca-certificates git make gcc libc6-dev          # to build
  iproute2 nftables ethtool tcpdump procps        # networks and what flows in them
  curl openssl openssh-client netcat-openbsd      # clients
  openssh-server nginx-light redis-server redis-tools postgresql postgresql-client postgresql-contrib
  squid-openssl tinyproxy haproxy microsocks      # boxes on the way; squid's plain package cannot intercept TLS
  musl-tools wget python3 busybox-static sudo     # programs that are led to services by name; of Go, Node and Java too,
                                                  # where they are there: they are too large to be installed for it
  dnsmasq-base bind9-dnsutils iperf3              # services of UDP
  vsftpd lftp inetutils-telnetd inetutils-telnet samba smbclient mosquitto mosquitto-clients slapd ldap-utils rsync
                                                  # servers and clients that people have, for the matrix of programs
  xvfb x11-apps x11-utils xauth tigervnc-standalone-server tigervnc-viewer xrdp freerdp2-x11
                                                  # screens for it, and what shows them elsewhere
  krb5-kdc krb5-admin-server krb5-user            # tickets for a proxy that takes them
  libfaketime                                     # clocks of processes that are set
)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  # pgbench is what postgresql-contrib is wanted for; newer releases ship it elsewhere and leave the name virtual.
  if [ "$state" != installed ]; then
    if [ "$package" = nginx-light ] && command -v nginx >/dev/null; then continue; fi
    if [ "$package" = postgresql-contrib ] && command -v pgbench >/dev/null; then continue; fi
    missing+=("$package")
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "install-test-packages: not root, so these are not installed: ${missing[*]}" >&2
  echo "install-test-packages: tests that need them will be counted as skipped" >&2
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "install-test-packages: no apt-get here; install these by hand: ${missing[*]}" >&2
  exit 0
fi

# Debian starts a server as soon as it is installed, unless this file forbids it. Put back what was there before.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

# No database cluster of its own: the tests make theirs in temporary folders.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
  mkdir -p /etc/postgresql-common
  printf 'create_main_cluster = false\n' > /etc/postgresql-common/createcluster.conf
fi

echo "install-test-packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}"; } > "$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "install-test-packages: the installation failed; its log is $log" >&2
  exit 1
fi
rm -f "$log"
