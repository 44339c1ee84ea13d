"""What compare.py and scaling.py share: calls of fresh processes on an idle machine, rows that survive an interruption."""
import hashlib
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "bench"
# What a call adds to the fields that identify it.
MEASURED = {"waited_s", "idle_before", "wall_s", "others_share", "result", "error"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def machine_busy():
    """Seconds of CPU time that all processes of the machine have used, stolen time included; None where unknown."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_idle(limit, quiet=2.0, share=0.05):
    """Waits until the machine was idle for `quiet` seconds, others using less than `share` of it, but at most `limit`
    seconds. Returns the seconds waited and whether it became idle (None where that cannot be known)."""
    begun, idle, busy = time.monotonic(), 0.0, machine_busy()
    if busy is None:
        return 0.0, None
    while idle < quiet and time.monotonic() - begun < limit:
        last = time.monotonic()
        time.sleep(0.5)
        before, busy, passed = busy, machine_busy(), time.monotonic() - last
        idle = idle + passed if busy - before < share * passed * os.cpu_count() else 0.0
    return time.monotonic() - begun, idle >= quiet


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def call(command, *, timeout, wait, env=None):
    """Runs a command that prints one JSON object. Returns {"result": ...} or {"error": ...}, with what the machine did:
    seconds waited for it, whether it was idle then, and the share of it that others used during the call."""
    waited, idle = wait_idle(wait)
    begun, busy, own = time.monotonic(), machine_busy(), children_cpu()
    # A process group of its own, so that a timeout also ends what the command has started.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, **(env or {})})
    try:
        stdout, stderr = process.communicate(timeout=timeout)
        if process.returncode == 0:
            outcome = {"result": json.loads(stdout)}
        else:
            outcome = {"error": f"exit code {process.returncode}: {stderr.strip()[-500:]}"}
    except subprocess.TimeoutExpired:
        outcome = {"error": f"no result after {timeout:.0f} s"}
    except json.JSONDecodeError:
        outcome = {"error": f"no JSON in: {stdout[-500:]}"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    wall = time.monotonic() - begun
    others = None
    if busy is not None:
        others = max(0.0, machine_busy() - busy - (children_cpu() - own)) / (wall * os.cpu_count())
    return {"waited_s": round(waited, 1), "idle_before": idle, "wall_s": round(wall, 2),
            "others_share": None if others is None else round(others, 4), **outcome}


class Rows:
    """Rows in a JSONL file: the first line says what they belong to, each further one is a call, written as it ends."""

    def __init__(self, path, about):
        self.path, self.rows = path, []
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # interrupted while writing its last line
            path.write_text(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            self._write({"about": about})
            self.about = about
            return
        self.about, self.rows = lines[0]["about"], lines[1:]
        for name, value in about["same"].items():
            if self.about["same"].get(name) != value:
                raise SystemExit(f"{path} holds rows with {name} = {self.about['same'].get(name)}, now it is {value}: "
                                 "rows of one file must belong together; name another --out")
        say(f"{path} holds {len(self.rows)} rows; going on")

    def _write(self, value):
        with open(self.path, "a") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def add(self, row):
        self._write(row)
        self.rows.append(row)
        return row

    def find(self, **key):
        """Rows whose fields are as asked."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def results(self, **key):
        """Rows with a result, of each call that was repeated the one during which others used least: chosen by what others
        did, never by the result."""
        found = {}
        for row in self.find(**key):
            if "result" in row:
                name = tuple((k, v) for k, v in row.items() if k not in MEASURED)
                if name not in found or (row["others_share"] or 0) < (found[name]["others_share"] or 0):
                    found[name] = row
        return list(found.values())


def output(*command):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu():
    """Model name and the vector extensions that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown processor", []
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    wanted = ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"]
    return fields.get("model name", "unknown processor"), [f for f in wanted if f in fields.get("flags", "").split()]


def digest(path):
    """Of a file, without all of it in memory: a child's peak memory begins with that of the process that started it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def describe(binary, threads, **same):
    """What rows belong to. Under "same": what must not change within one file."""
    model, flags = cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "same": {"ffnlab_sha256": digest(binary), "cpu": model, "threads": threads, **same},
        "ffnlab": output(str(binary), "--version"),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")),
        "cores": os.cpu_count(), "cpu_flags": flags, "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}", "python": platform.python_version(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def described(about, rows, args):
    """Lines of Markdown: host, versions, how quiet the machine was in the given rows."""
    same = about["same"]
    others = [row["others_share"] for row in rows if row["others_share"] is not None]
    lines = [
        f"- Host: {same['cpu']}, {about['cores']} cores ({', '.join(about['cpu_flags']) or 'flags unknown'}), "
        f"{about['memory_gib']} GiB, {about['system']}; {same['threads']} threads.",
        f"- {about['ffnlab']}, binary sha256 {same['ffnlab_sha256']}…, commit {(about['commit'] or 'unknown')[:12]}"
        f"{' with uncommitted changes' if about['uncommitted_changes'] else ''}, Python {about['python']}"
        f"{', PyTorch ' + same['torch'] if 'torch' in same else ''}. Begun {about['begun']}.",
    ]
    if others:
        loud = sum(not quiet(row, args) for row in rows)
        lines.append(
            f"- Others used {100 * statistics.median(others):.1f} % of the machine during a call (median; largest "
            f"{100 * max(others):.1f} %). Calls during which it was more than {100 * args.noisy:g} % were repeated, at most "
            f"{args.attempts} calls; of these the quietest is in the table. {loud} of {len(rows)} calls in it remain above.")
    return lines


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def spread(values, digits=0):
    """Median, with smallest and largest."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def common_arguments(parser, out):
    parser.add_argument("--bench-binary", type=Path, default=ROOT / "target" / "release" / "ffnlab", metavar="PATH")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / out, metavar="DIR",
                        help=f"folder of rows.jsonl and table.md [runs/{out}]; call again to go on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, help="untimed steps of each call, at least 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--wait", type=float, default=120, metavar="S", help="longest wait for an idle machine [120]")
    parser.add_argument("--timeout", type=float, default=900, metavar="S", help="of one call [900]")
    parser.add_argument("--noisy", type=float, default=0.03, metavar="SHARE",
                        help="a call is repeated when others used more of the machine than this [0.03]")
    parser.add_argument("--attempts", type=int, default=3, help="calls at most until one was quiet [3]")
    parser.add_argument("--retry", action="store_true", help="measure again what has failed or was never quiet")
    parser.add_argument("--table-only", action="store_true", help="write the table of the rows that are there")


def check_arguments(args):
    if not args.bench_binary.is_file():
        raise SystemExit(f"{args.bench_binary} is no file: build it (cargo build --release) or name it: --bench-binary PATH")
    if args.warmup is not None and args.warmup < 1:
        raise SystemExit("--warmup must be at least 1: the first step allocates, and compiles where that was asked for")


def bench(args, config, overrides, steps, warmup, precision="fp32"):
    """The command of one `ffnlab bench`."""
    command = [str(args.bench_binary), "bench", str(config), "--json", "--precision", precision, "--steps", str(steps),
               "--warmup", str(warmup), "--threads", str(args.threads)]
    for override in overrides:
        command += ["-o", override]
    return command


def measured(rows, args, key, command, env=None):
    """Makes a call until others left it the machine, at most --attempts times, and yields each row. Nothing is left to do
    where a quiet row is there, or, short of --retry, where the call has failed or all attempts were made."""
    for _ in range(args.attempts):
        found = rows.find(**key)
        if any("result" in row and quiet(row, args) for row in found):
            return
        if found and not args.retry and (any("error" in row for row in found) or len(found) >= args.attempts):
            return
        yield rows.add({**key, **call(command, timeout=args.timeout, wait=args.wait, env=env)})


def quiet(row, args):
    return row["others_share"] is None or row["others_share"] <= args.noisy


def outcome(row):
    """A row in a few words."""
    what = f"{row['result']['step_ms']:.1f} ms" if "result" in row else row["error"].splitlines()[-1]
    others = "" if row["others_share"] is None else f", others {100 * row['others_share']:.1f} %"
    return f"{what} (waited {row['waited_s']:.0f} s{others})"


def report(rows, args, measure, table, notes):
    """Measures, and writes the table of what there is, however that ends."""
    try:
        if not args.table_only:
            measure()
    finally:
        path = args.out / "table.md"
        path.write_text("\n".join(table() + notes()) + "\n")
        say(f"{path} written")
    print("\n".join(table()))


def run(main):
    """Runs main so that SIGINT and SIGTERM end the call that is being made too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except KeyboardInterrupt:
        say("interrupted; call again to go on")
        sys.exit(128 + signal.SIGINT)
