#!/usr/bin/env bash
# A real Slurm on this machine for tests: accounting, one controller and four virtual nodes with four fake GPUs each.
#
#   cluster.sh start               a fresh cluster; an earlier one under the same root is stopped and forgotten
#   cluster.sh stop                kill every process of it, jobs too; the logs stay
#   cluster.sh status              one line a daemon; exit code 3 if one is down
#   cluster.sh crash NODE          power loss: kill -9 of the node's slurmd and of all processes of its jobs
#   cluster.sh crash-daemon NODE   split brain: kill -9 of the node's slurmd alone, its jobs go on
#   cluster.sh revive              start what is down
#   cluster.sh env                 print the line that points Slurm's commands here
#
# $SCALERL_SLURM_ROOT holds all state (default /tmp/scalerl-slurm); $SCALERL_SLURM_PORT is the first of 15 ports.
# Needs root and: apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server
set -uo pipefail

ROOT=${SCALERL_SLURM_ROOT:-/tmp/scalerl-slurm}
PORT=${SCALERL_SLURM_PORT:-17000} # slurmctld; +1 slurmdbd; +2 MariaDB; +11 .. +14 the nodes
NODES=(node1 node2 node3 node4)
SOCKET=$ROOT/munge/socket
HOSTS_LINE="127.0.0.1 ${NODES[*]} # $ROOT"
export SLURM_CONF=$ROOT/etc/slurm.conf

fail() {
    echo "cluster.sh: $*" >&2
    exit 1
}

wait_until() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# --- processes. A daemon is found by its open log file: no pid file can be stale, and a step daemon shares its node's log.

holders() { # LOG [PROGRAM]: pids of PROGRAM (default: any daemon) that hold $ROOT/log/LOG.log open
    local pid program
    find /proc/[0-9]*/fd -lname "$ROOT/log/$1.log*" 2>/dev/null | cut -d/ -f3 | sort -u | while read -r pid; do
        program=$(readlink "/proc/$pid/exe")
        [[ ${program##*/} =~ ^(${2:-munged|mariadbd|slurm}) ]] && echo "$pid"
    done
}

is_up() { [ -n "$(holders "$1" "$2")" ]; }

descendants() { # PID...: these and everything they started
    local pid
    for pid in "$@"; do
        echo "$pid"
        # shellcheck disable=SC2046
        descendants $(cat /proc/"$pid"/task/*/children 2>/dev/null)
    done
}

job_processes() { # NODE ('.*' for all): also those whose parents are gone
    local file
    for file in $(grep -lzx "SLURMD_NODENAME=$1" /proc/[0-9]*/environ 2>/dev/null); do
        grep -qzxF "SLURM_CONF=$SLURM_CONF" "$file" 2>/dev/null && cut -d/ -f3 <<<"$file"
    done
}

kill_all() { # COMMAND...: kill what it lists until it lists nothing
    local end=$((SECONDS + 20)) pids
    while pids=$("$@"); [ -n "$pids" ]; do
        ((SECONDS < end)) || fail "these processes do not die: $pids"
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null
        sleep 0.05
    done
}

processes_of_node() {
    # shellcheck disable=SC2046
    descendants $(holders "$1")
    job_processes "$1"
}

all_processes() {
    # shellcheck disable=SC2046
    descendants $(holders '*')
    job_processes '.*'
}

# --- configuration

write_slurm_conf() {
    cat <<EOF
ClusterName=scalerl
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job is held back for the lifetime of its credential
AuthInfo=socket=$SOCKET,cred_expire=5
StateSaveLocation=$ROOT/state
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdPidFile=$ROOT/run/%n.pid
SlurmdLogFile=$ROOT/log/%n.log
SlurmdSpoolDir=$ROOT/spool/%n

# nodes claim more than this machine has, so nothing is bound or measured
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
MaxArraySize=1001

JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PriorityType=priority/basic
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2

# a dead node is noticed within 20 s and may come back by itself
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
TCPTimeout=1
KillWait=10
CompleteWait=0
ReturnToService=2

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
AccountingStoragePass=$SOCKET
AccountingStorageTRES=gres/gpu

EOF
    local number
    for number in 1 2 3 4; do
        echo "NodeName=node$number NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 10 + number))" \
            "CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16384 Gres=gpu:fake:4"
    done
    cat <<'EOF'
PartitionName=low   Nodes=ALL State=UP DefaultTime=10 MaxTime=1440 PriorityTier=1  PreemptMode=REQUEUE GraceTime=0 Default=YES
PartitionName=grace Nodes=ALL State=UP DefaultTime=10 MaxTime=1440 PriorityTier=1  PreemptMode=REQUEUE GraceTime=20
PartitionName=high  Nodes=ALL State=UP DefaultTime=10 MaxTime=1440 PriorityTier=10 PreemptMode=OFF
EOF
}

write_slurmdbd_conf() {
    cat <<EOF
AuthType=auth/munge
AuthInfo=socket=$SOCKET
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=$((PORT + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_accounting
PidFile=$ROOT/run/slurmdbd.pid
LogFile=$ROOT/log/slurmdbd.log
EOF
}

configure() {
    mkdir -p "$ROOT"/{etc,log,run,state,munge,gpu,database} "${NODES[@]/#/$ROOT/spool/}"
    local number
    for number in 0 1 2 3; do mknod -m 666 "$ROOT/gpu/nvidia$number" c 1 3; done # as /dev/null
    write_slurm_conf >"$ROOT/etc/slurm.conf"
    echo "NodeName=node[1-4] Name=gpu Type=fake File=$ROOT/gpu/nvidia[0-3]" >"$ROOT/etc/gres.conf"
    (umask 077 && write_slurmdbd_conf >"$ROOT/etc/slurmdbd.conf" && head -c 128 /dev/urandom >"$ROOT/etc/munge.key")
    echo "GRANT ALL ON slurm_accounting.* TO slurm@localhost IDENTIFIED BY 'slurm';" >"$ROOT/etc/database.sql"
    mariadb-install-db --no-defaults --user=root --datadir="$ROOT/database" --skip-test-db >"$ROOT/log/install.log" 2>&1 ||
        fail "mariadb-install-db failed; see $ROOT/log/install.log"
}

# --- daemons. They get a clean environment: a job's variables would reach every job they start.

launch() { # LOG COMMAND...
    local log=$1
    shift
    (cd "$ROOT" && env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 SLURM_CONF="$SLURM_CONF" \
        "$@" </dev/null >>"$ROOT/log/$log.log" 2>&1)
}

start_munged() {
    is_up munged munged && return
    rm -f "$SOCKET" "$SOCKET.lock"
    # --force: its folders lie below a world-writable one
    launch munged munged --force --socket="$SOCKET" --key-file="$ROOT/etc/munge.key" --pid-file="$ROOT/run/munged.pid" \
        --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/munge/seed"
    wait_until 10 munge --socket="$SOCKET" --no-input || fail "munged does not answer; see $ROOT/log/munged.log"
}

database_answers() { mariadb-admin --no-defaults --socket="$ROOT/run/database.socket" ping; }

start_database() {
    is_up database mariadbd && return
    launch database setsid --fork mariadbd --no-defaults --user=root --datadir="$ROOT/database" --socket="$ROOT/run/database.socket" \
        --bind-address=127.0.0.1 --port=$((PORT + 2)) --pid-file="$ROOT/run/database.pid" \
        --init-file="$ROOT/etc/database.sql" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0
    wait_until 60 database_answers || fail "MariaDB does not answer; see $ROOT/log/database.log"
}

start_slurmdbd() {
    is_up slurmdbd slurmdbd && return
    launch slurmdbd slurmdbd
    wait_until 60 sacctmgr --noheader list cluster || fail "slurmdbd does not answer; see $ROOT/log/slurmdbd.log"
    [ -n "$(sacctmgr --noheader list cluster scalerl)" ] && return
    {
        sacctmgr --immediate add cluster scalerl &&
            sacctmgr --immediate add account research cluster=scalerl &&
            sacctmgr --immediate add user root account=research
    } >"$ROOT/log/sacctmgr.log" 2>&1 || fail "sacctmgr failed; see $ROOT/log/sacctmgr.log"
}

controller_answers() { scontrol ping | grep -q 'is UP'; }

start_slurmctld() {
    is_up slurmctld slurmctld && return
    launch slurmctld slurmctld
    wait_until 30 controller_answers || fail "slurmctld does not answer; see $ROOT/log/slurmctld.log"
}

num_ready() { sinfo --noheader --Node --partition=low --format=%T | grep -cxE 'idle|mixed|allocated|completing'; }

all_ready() { [ "$(num_ready)" = ${#NODES[@]} ]; }

revive() {
    [ -f "$SLURM_CONF" ] || fail "there is no cluster under $ROOT: cluster.sh start"
    grep -qxF "$HOSTS_LINE" /etc/hosts || echo "$HOSTS_LINE" >>/etc/hosts
    start_munged
    start_database
    start_slurmdbd
    start_slurmctld
    local node
    for node in "${NODES[@]}"; do
        is_up "$node" slurmd || launch "$node" slurmd -N "$node" || fail "slurmd failed; see $ROOT/log/$node.log"
    done
    wait_until 60 all_ready || fail "after 60 s only $(num_ready) nodes are ready: $(sinfo --list-reasons)"
}

# --- commands

start() {
    [ "$(id -u)" = 0 ] || fail "Slurm's daemons need root"
    [ ! -e "$ROOT" ] || [ -f "$SLURM_CONF" ] || fail "$ROOT exists and is no cluster of this script: set SCALERL_SLURM_ROOT"
    stop
    rm -rf "$ROOT"
    configure
    revive
}

stop() {
    kill_all all_processes
    # written in place: in a container /etc/hosts is often a mount, which cannot be renamed over
    if grep -qxF "$HOSTS_LINE" /etc/hosts; then
        local others
        others=$(grep -vxF "$HOSTS_LINE" /etc/hosts)
        echo "$others" >/etc/hosts
    fi
}

status() {
    local code=0 daemon program
    for daemon in munged database slurmdbd slurmctld "${NODES[@]}"; do
        case $daemon in database) program=mariadbd ;; node*) program=slurmd ;; *) program=$daemon ;; esac
        if is_up "$daemon" "$program"; then echo "$daemon up"; else echo "$daemon down" && code=3; fi
    done
    return $code
}

require_node() { [[ " ${NODES[*]} " == *" ${1:-none} "* ]] || fail "name a node: ${NODES[*]}"; }

case ${1:-} in
start | stop | status | revive) "$1" ;;
crash)
    require_node "${2:-}"
    kill_all processes_of_node "$2"
    ;;
crash-daemon)
    require_node "${2:-}"
    kill_all holders "$2" slurmd
    ;;
env) echo "export SLURM_CONF=$SLURM_CONF" ;;
*) fail "usage: cluster.sh start|stop|status|crash NODE|crash-daemon NODE|revive|env" ;;
esac
