#!/bin/sh
# Starts dockerd in a container: on its unix socket, and over TLS on 2376 when DOCKER_TLS_CERTDIR is set. Arguments that
# begin with a dash go to dockerd; any other command is run instead of it.
set -eu

# Re-signed at each start, so that the names are this container's and only the authority can grow old.
days=825
month_in_seconds=2592000

make_key() {
  [ -s "$1" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null
}

# sign DIR SUBJECT EXTENSIONS: signs DIR/key.pem with the authority, into DIR/cert.pem.
sign() {
  make_key "$1/key.pem"
  openssl req -new -key "$1/key.pem" -subj "/CN=$2" -out "$1/csr.pem"
  printf '%s\n' "$3" > "$1/extensions.cnf"
  openssl x509 -req -in "$1/csr.pem" -CA "$certs/ca/cert.pem" -CAkey "$certs/ca/key.pem" -days "$days" \
    -extfile "$1/extensions.cnf" -out "$1/cert.new" 2> /dev/null
  mv "$1/cert.new" "$1/cert.pem"
  cp "$certs/ca/cert.pem" "$1/ca.pem"
  rm "$1/csr.pem" "$1/extensions.cnf"
}

make_authority() {
  make_key "$certs/ca/key.pem"
  if openssl x509 -in "$certs/ca/cert.pem" -noout -checkend "$month_in_seconds" > /dev/null 2>&1; then return; fi
  openssl req -new -key "$certs/ca/key.pem" -subj '/CN=Sandyard engine CA' -out "$certs/ca/csr.pem"
  printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' \
    > "$certs/ca/extensions.cnf"
  openssl x509 -req -in "$certs/ca/csr.pem" -signkey "$certs/ca/key.pem" -days "$days" \
    -extfile "$certs/ca/extensions.cnf" -out "$certs/ca/cert.pem" 2> /dev/null
  rm "$certs/ca/csr.pem" "$certs/ca/extensions.cnf"
}

# DNS:docker,DNS:localhost,DNS:<host name>,IP:<each address of this container>, and what DOCKER_TLS_SAN adds.
alternative_names() {
  names="DNS:docker,DNS:localhost,DNS:$(hostname),IP:127.0.0.1,IP:::1"
  for address in $(hostname -i 2> /dev/null); do names="$names,IP:$address"; done
  printf %s "$names${DOCKER_TLS_SAN:+,$DOCKER_TLS_SAN}"
}

make_certificates() {
  old_umask="$(umask)"
  umask 077
  mkdir -p "$certs/ca" "$certs/server" "$certs/client"
  make_authority
  sign "$certs/server" 'docker' "subjectAltName=$(alternative_names)
extendedKeyUsage=serverAuth"
  sign "$certs/client" 'docker client' 'extendedKeyUsage=clientAuth'
  # Whoever is given the client's volume may use the engine; its users need not be root.
  chmod 755 "$certs" "$certs/client"
  chmod 644 "$certs/client/key.pem" "$certs/client/cert.pem" "$certs/client/ca.pem"
  umask "$old_umask"
}

# A container that got its rights one by one, and not by --privileged, finds its cgroups and settings of the kernel
# mounted read-only; those that an engine must write to are its own.
open_mounts() {
  for mount_point in $(awk '($3 ~ /^cgroup2?$/ || $2 == "/proc/sys") && $4 ~ /^ro/ { print $2 }' /proc/mounts); do
    mount -o remount,rw,bind "$mount_point"
  done
}

# With cgroup v2 a group that has processes can't give controllers to its children: the processes move to one of their own.
make_room_for_cgroups() {
  [ -f /sys/fs/cgroup/cgroup.controllers ] || return 0
  mkdir -p /sys/fs/cgroup/init
  for pid in $(cat /sys/fs/cgroup/cgroup.procs); do
    echo "$pid" > /sys/fs/cgroup/init/cgroup.procs 2> /dev/null || true
  done
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control 2> /dev/null || true
  done
}

case "${1:--}" in
  dockerd) shift ;;
  -*) ;;
  *) exec "$@" ;;
esac

# Process ids left by an engine that this container's last run ended abruptly would keep the new one from starting.
rm -f /run/docker.pid /run/docker/containerd/containerd.pid
open_mounts
make_room_for_cgroups
# Mounts made for containers have to reach the engine's helpers, in namespaces of their own.
mount --make-rshared /
# The host's kernel may know only one of the two kinds of netfilter tables.
if ! iptables -nL > /dev/null 2>&1; then
  update-alternatives --set iptables /usr/sbin/iptables-legacy > /dev/null || true
  update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy > /dev/null || true
fi

certs="${DOCKER_TLS_CERTDIR:-}"
if [ -n "$certs" ]; then
  make_certificates
  set -- --host=tcp://0.0.0.0:2376 --tlsverify --tlscacert="$certs/server/ca.pem" \
    --tlscert="$certs/server/cert.pem" --tlskey="$certs/server/key.pem" "$@"
fi
exec tini -- dockerd --host=unix:///var/run/docker.sock "$@"
