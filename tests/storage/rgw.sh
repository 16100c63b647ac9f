#!/usr/bin/env bash
# A real S3 server on loopback for the tests: Ceph's RADOS gateway over one monitor and one in-memory object store.
#
#   rgw.sh install              install it from Debian's packages (as root)
#   rgw.sh start FOLDER PORT    start it in the empty FOLDER; also takes PORT + 1. Prints ENDPOINT KEY SECRET.
#   rgw.sh stop FOLDER          end it
#
# Nothing is listening outside 127.0.0.1 and nothing outlives `stop`: the objects are in memory.
set -euo pipefail

install_packages() {
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e "$policy" ]; then # keeps the packages from starting daemons of their own
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    made=yes
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common >/dev/null
  [ -z "$made" ] || rm "$policy"
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

# Runs a daemon that stays when this script ends, and remembers its process id.
daemon() {
  local folder=$1 name=$2
  shift 2
  setsid "$@" >"$folder/$name.out" 2>&1 </dev/null &
  echo $! >"$folder/$name.pid"
}

start() {
  local folder=$1 port=$2 conf=$1/ceph.conf osd
  mkdir -p "$folder"/{mon,osd,rgw}
  : >"$folder/keyring"
  write_config "$folder" "$port"
  monmaptool --create --clobber --fsid "$(sed -n 's/^fsid = //p' "$conf")" \
    --addv a "[v1:127.0.0.1:$((port + 1))]" "$folder/monmap" >"$folder/setup.out" 2>&1
  ceph-mon -c "$conf" -i a --mkfs --monmap "$folder/monmap" >>"$folder/setup.out" 2>&1
  daemon "$folder" mon ceph-mon -c "$conf" -i a -f
  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph -c "$conf" --connect-timeout 30 osd new "$osd" >>"$folder/setup.out" 2>&1
  ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" >>"$folder/setup.out" 2>&1
  daemon "$folder" osd ceph-osd -c "$conf" -i 0 -f
  ceph -c "$conf" osd crush add osd.0 1.0 root=default host=localhost >>"$folder/setup.out" 2>&1
  daemon "$folder" rgw radosgw -c "$conf" -n client.rgw -f
  local key secret
  key=KEY$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n' | tr a-f A-F)
  secret=$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')
  for _ in $(seq 600); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      radosgw-admin -c "$conf" -n client.rgw user create --uid=tests --display-name=tests --caps="user-policy=*" \
        --access-key="$key" --secret-key="$secret" >>"$folder/setup.out" 2>&1
      echo "http://127.0.0.1:$port $key $secret"
      return
    fi
    sleep 0.1
  done
  echo "the gateway does not answer on port $port; see $folder/*.out" >&2
  return 1
}

stop() {
  local pidfile
  for pidfile in "$1"/rgw.pid "$1"/osd.pid "$1"/mon.pid; do
    [ ! -f "$pidfile" ] || kill "$(cat "$pidfile")" 2>/dev/null || true
    rm -f "$pidfile"
  done
}

case ${1:-} in
install) install_packages ;;
start) start "$2" "$3" || { stop "$2"; exit 1; } ;;
stop) stop "$2" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
