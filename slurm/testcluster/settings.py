"""The files of the test cluster: slurm.conf, gres.conf, slurmdbd.conf.

What is unusual in them, and why:

- ``SlurmdParameters=config_overrides``: a node may claim more CPUs than the machine has.
- gres.conf names character devices: a bare count makes slurmd report no GPU at all.  They are never opened.
- ``NoInAddrAny``: everything listens on 127.0.0.1.
- ``cred_expire=5``: a requeued job waits that long before it may start; the default is two minutes.
- ``SlurmdTimeout``, ``MessageTimeout``, ``BatchStartTimeout``: a busy machine answers late; by default SLURM then
  takes a job that runs for lost and starts it again.  ``Cluster.lose_node`` does not wait for them.
- ``AccountingStoragePass``: where slurmctld looks for munge when it talks to slurmdbd; AuthInfo is not used there.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a test may choose.

    Attributes:
        nodes, gpus, cpus: number of nodes n1, n2, ...; fake GPUs and CPUs of each.
        accounting: with slurmdbd and MariaDB; else ``sacct`` fails, as on sites without accounting.
        user_signal: a preempted job is told by the signal of ``--signal`` (SlurmctldParameters).
        kill_wait: seconds between SIGTERM and SIGKILL.
        max_array: array indices stay below it.
    """

    nodes: int = 2
    gpus: int = 2
    cpus: int = 4
    accounting: bool = False
    user_signal: bool = False
    kill_wait: int = 5
    max_array: int = 1001
    ports: dict[str, int] = field(default_factory=dict)
    """Set by the cluster: ``ctld``, ``n1``, ``n2``, ... and with accounting ``dbd``, ``sql``."""


PARTITIONS = {
    "debug": "Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
    "grace": "PriorityTier=1 PreemptMode=REQUEUE GraceTime=20",
    "cancel": "PriorityTier=1 PreemptMode=CANCEL GraceTime=0",
    "high": "PriorityTier=10 PreemptMode=OFF",
}
"""Jobs of ``high`` preempt those of the others."""


def slurm_conf(home: Path, settings: Settings) -> str:
    """The text of slurm.conf for a cluster below ``home``."""
    user, socket = getpass.getuser(), home / "run/munge.socket"
    accounting = "AccountingStorageType=accounting_storage/none"
    if settings.accounting:
        accounting = f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={settings.ports["dbd"]}
AccountingStorageTRES=gres/gpu
AccountingStoragePass={socket}"""
    nodes = "\n".join(
        f"NodeName=n{i} NodeAddr=127.0.0.1 NodeHostname=localhost Port={settings.ports[f'n{i}']} "
        f"CPUs={settings.cpus} RealMemory=8000 Gres=gpu:{settings.gpus} State=UNKNOWN"
        for i in range(1, settings.nodes + 1)
    )
    partitions = "\n".join(f"PartitionName={n} Nodes=ALL MaxTime=INFINITE {more}" for n, more in PARTITIONS.items())
    return f"""ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={settings.ports["ctld"]}
StateSaveLocation={home}/state
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdSpoolDir={home}/spool/%n
SlurmdPidFile={home}/run/slurmd.%n.pid
SlurmdLogFile={home}/log/slurmd.%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=300
MessageTimeout=60
BatchStartTimeout=60
{"SlurmctldParameters=preempt_send_user_signal" if settings.user_signal else ""}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MinJobAge=3600
MaxArraySize={settings.max_array}
KillWait={settings.kill_wait}
GresTypes=gpu
{accounting}
{nodes}
{partitions}
"""


def gres_conf(settings: Settings) -> str:
    """The text of gres.conf."""
    devices = ",".join(f"/dev/tty{i}" for i in range(settings.gpus))
    if not all(Path(name).is_char_device() for name in devices.split(",")):  # in many containers there are no terminals
        devices = ",".join(["/dev/null", "/dev/zero", "/dev/full", "/dev/random"][: settings.gpus])
    return f"NodeName=n[1-{settings.nodes}] Name=gpu File={devices}\n" if settings.gpus else ""


def slurmdbd_conf(home: Path, settings: Settings) -> str:
    """The text of slurmdbd.conf (file mode 0600)."""
    return f"""AuthType=auth/munge
AuthInfo={home}/run/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={settings.ports["dbd"]}
SlurmUser={getpass.getuser()}
LogFile={home}/log/slurmdbd.log
PidFile={home}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={settings.ports["sql"]}
StorageUser=root
StoragePass=x
StorageLoc=slurm_acct
"""
