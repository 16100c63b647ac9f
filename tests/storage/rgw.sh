#!/usr/bin/env bash
# A real S3 server on loopback for the tests: Ceph's RADOS gateway over one monitor and one in-memory object store.
#
#   rgw.sh install            install it from Debian's packages (as root)
#   rgw.sh run FOLDER PORT    run it in the new FOLDER; also takes PORT + 1. Prints ENDPOINT KEY SECRET, then runs
#                             until its standard input is closed.
#
# Nothing is listening outside 127.0.0.1. The objects are in memory, at most 2 GiB in a bucket (then it refuses more), for
# which it takes twice that. Nothing outlives the script or whoever holds its input, however they end: no process, and
# but for a `kill -9` of the script itself no file.
set -euo pipefail

install_packages() {
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then # keeps the packages from starting daemons of their own
    trap 'rm /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common >/dev/null
}

write_config() {
  local folder=$1 port=$2
  cat >"$folder/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_initial_members = a
mon_host = [v1:127.0.0.1:$((port + 1))]
public_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_msgr2 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_class_update_on_start = false
osd_crush_update_on_start = false
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 2
setuser_match_path =
keyring = $folder/keyring
mon_data = $folder/mon
osd_data = $folder/osd
rgw_data = $folder/rgw
run_dir = $folder
admin_socket = $folder/\$name.asok
pid_file =
log_file = $folder/\$name.log
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:$port
rgw_enable_apis = s3, sts, iam
rgw_s3_auth_use_sts = true
rgw_sts_key = $(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
rgw_run_sync_thread = false
rgw_enable_usage_log = false
CONF
}

# Runs a daemon that the kernel ends together with this script.
daemon() {
  local folder=$1 name=$2
  shift 2
  setsid setpriv --pdeathsig KILL "$@" >"$folder/$name.out" 2>&1 </dev/null &
}

start() {
  local folder=$1 port=$2 conf=$1/ceph.conf osd
  mkdir "$folder"/{mon,osd,rgw}
  : >"$folder/keyring"
  write_config "$folder" "$port"
  monmaptool --create --clobber --fsid "$(sed -n 's/^fsid = //p' "$conf")" \
    --addv a "[v1:127.0.0.1:$((port + 1))]" "$folder/monmap"
  ceph-mon -c "$conf" -i a --mkfs --monmap "$folder/monmap"
  daemon "$folder" mon ceph-mon -c "$conf" -i a -f
  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph -c "$conf" --connect-timeout 120 osd new "$osd"
  ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd"
  daemon "$folder" osd ceph-osd -c "$conf" -i 0 -f
  ceph -c "$conf" osd crush add osd.0 1.0 root=default host=localhost
  daemon "$folder" rgw radosgw -c "$conf" -n client.rgw -f
  for _ in $(seq 1800); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port"); then
      radosgw-admin -c "$conf" -n client.rgw user create --uid=tests --display-name=tests --caps="user-policy=*" \
        --access-key="$3" --secret-key="$4"
      radosgw-admin -c "$conf" -n client.rgw quota set --quota-scope=bucket --uid=tests --max-size=2G
      radosgw-admin -c "$conf" -n client.rgw quota enable --quota-scope=bucket --uid=tests
      return
    fi
    sleep 0.1
  done
  echo "the gateway does not answer on port $port"
  return 1
}

run() {
  local folder=$1 port=$2 key secret
  mkdir "$folder"
  # shellcheck disable=SC2064
  trap "end '$folder'" EXIT
  trap 'exit 143' HUP INT TERM
  key=KEY$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n' | tr a-f A-F)
  secret=$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')
  start "$folder" "$port" "$key" "$secret" >"$folder/setup.out" 2>&1 # where it fails, the script ends
  touch "$folder/started"
  echo "http://127.0.0.1:$port $key $secret"
  cat <&0 >/dev/null & # in the background, for bash runs no trap while it waits for a command
  wait $!
}

# Ends every daemon, waits until they are gone and removes the folder; says why if they had not all started.
end() {
  local pids
  [ -e "$1/started" ] || tail -n 5 "$1"/*.out >&2 || true
  pids=$(jobs -p)
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$1"
}

case ${1:-} in
install) install_packages ;;
run) run "$2" "$3" ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
