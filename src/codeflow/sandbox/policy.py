"""What untrusted code may use. Frozen, standard library only: a sandbox must be cheap to import anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one execution. Raises ValueError naming field, value and rule for limits that mean nothing."""

    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0  # per process, in whole seconds rounded up
    memory_bytes: int = 512 * MIB  # address space per process; in all, where a control group can be made
    reserved_bytes: int = 0  # address space on top, for virtual machines that reserve far more than they use
    processes: int = 16  # processes and threads alive at once
    output_bytes: int = 1 * MIB  # standard output, standard error and channel together
    disk_bytes: int = 64 * MIB  # everything writable: half in /work, a quarter each in /tmp and /dev/shm

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "reserved_bytes" and value == 0:
                continue
            if value <= 0:
                raise ValueError(f"{item.name}={value}: must be greater than 0")
        if self.memory_bytes < 16 * MIB:
            raise ValueError(f"memory_bytes={self.memory_bytes}: no interpreter starts below {16 * MIB}")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a sandbox is: the limits of its executions unless one says otherwise, its environment variables, and what
    of the host can be read in it besides the system: (host path, absolute path inside) pairs."""

    limits: Limits = field(default_factory=Limits)
    environment: tuple[tuple[str, str], ...] = (
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/work"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PYTHONHASHSEED", "0"),  # equal programs give equal output
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("OMP_NUM_THREADS", "1"),
    )
    readable: tuple[tuple[str, str], ...] = ()
