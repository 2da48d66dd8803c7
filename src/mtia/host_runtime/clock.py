"""Simulated time: one host clock, streams, events and the path of a launch. Integer femtoseconds throughout.

Nothing runs concurrently in reality: values are computed when work is submitted. The clock says when each piece would
have started and ended, and what the host would have waited for.

The path of a launch (figures: `spec.launch`; what each means: chips/spec.py):

    host     enqueue: host_s                  the host clock moves on; it does not wait for the device
    control  take the job off the queue: control_s, one job at a time per device
    grid     start = the latest of
                 control done + start_s       work-queue engines fetch the job, PEs start
                 grid free + replace_s        a queued job replaces the one before it (back to back)
                 what the stream waits for    its earlier work, events
             end = start + duration
    report   finish_s after the end: when a host that waits learns of it

Kernels of one device share its grid, so they run one at a time whatever their stream; transfers have a link per
direction and overlap kernels of other streams. A graph replay pays host_s once, not once a node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from mtia.chips.spec import ChipSpec
from mtia.host_runtime import record, silicon
from mtia.host_runtime.record import NO_WORK, Kind, Span, Work
from mtia.units import bytes_to_fs, fs_to_s, s_to_fs

HOST_BYTES_PER_S = 38e9
"""Rate at which the host computes a fallback, bytes in and out. Assumed for every chip: the host DRAM bandwidth that
one chip of an MTIA 200 server has to itself (38 GB/s, facts 3.4); ranges with the host, 10 to 100 GB/s."""


@dataclass(slots=True)
class _Stream:
    ready_fs: int = 0  # its last work has ended (and events it waits for have passed)
    reported_fs: int = 0  # the host may know of it


@dataclass(slots=True)
class _Device:
    control_free_fs: int = 0
    grid_free_fs: int | None = None  # None: nothing has run yet
    upload_free_fs: int = 0
    download_free_fs: int = 0
    fabric_free_fs: int = 0


@dataclass(slots=True, frozen=True)
class _LaunchPath:
    """`spec.launch` in femtoseconds."""

    spec: ChipSpec
    host_fs: int
    control_fs: int
    start_fs: int
    replace_fs: int
    finish_fs: int

    @classmethod
    def of(cls, spec: ChipSpec) -> _LaunchPath:
        launch = spec.launch
        figures = (launch.host_s, launch.control_s, launch.start_s, launch.replace_s, launch.finish_s)
        return cls(spec, *(s_to_fs(figure) for figure in figures))


class Clock:
    """Simulated time of one process. `spec()` gives the chip in force."""

    def __init__(self, spec: ChipSpec | None = None) -> None:
        self._fixed_spec = spec
        self.host_fs = 0
        self._devices: dict[int, _Device] = {}
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._events: dict[int, tuple[int, tuple[int, int]]] = {}
        self._event_ids = count(1)
        self._free_enqueues = False
        self._stand_in: dict[tuple[int, int], tuple[int, int]] = {}
        self._known_path: _LaunchPath | None = None

    @property
    def spec(self) -> ChipSpec:
        return self._fixed_spec if self._fixed_spec is not None else silicon.chip()

    @property
    def _path(self) -> _LaunchPath:
        spec = self.spec
        if self._known_path is None or self._known_path.spec is not spec:
            self._known_path = _LaunchPath.of(spec)
        return self._known_path

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(
        self,
        device_index: int,
        stream_id: int,
        name: str,
        kind: Kind | str,
        device_duration_fs: int,
        host_cost_fs: int | None = None,
        record: Work | None = None,
    ) -> Span:
        """Submit one kernel. `host_cost_fs` None: the spec's host_s. `record`: what it did, for reports."""
        device, stream = self._device(device_index), self._stream(device_index, stream_id)
        path = self._path
        if not self._free_enqueues:
            self.host_fs += path.host_fs if host_cost_fs is None else host_cost_fs
        submit_fs = self.host_fs
        control_fs = max(submit_fs, device.control_free_fs) + path.control_fs
        device.control_free_fs = control_fs
        start_fs = max(control_fs + path.start_fs, stream.ready_fs)
        if device.grid_free_fs is not None:
            start_fs = max(start_fs, device.grid_free_fs + path.replace_fs)
        end_fs = start_fs + device_duration_fs
        device.grid_free_fs = end_fs
        self._extend(stream, end_fs, path.finish_fs)
        return self._span(name, kind, device_index, stream_id, submit_fs, start_fs, end_fs, record)

    def transfer(self, device_index: int, stream_id: int, n_bytes: int, *, upload: bool, host_waits: bool) -> Span:
        """A copy over the host link: latency, then bytes at the link's rate; one at a time per direction."""
        device, link = self._device(device_index), self.spec.host_link
        free_fs = device.upload_free_fs if upload else device.download_free_fs
        duration_fs = s_to_fs(link.latency_s) + bytes_to_fs(n_bytes, link.bytes_per_s)
        span = self._copy("upload" if upload else "download", device_index, stream_id, free_fs, duration_fs, n_bytes)
        if upload:
            device.upload_free_fs = span.end_fs
        else:
            device.download_free_fs = span.end_fs
        if host_waits:
            self.synchronize_stream(device_index, stream_id)
        return span

    def peer_transfer(self, device_index: int, stream_id: int, n_bytes: int, source_index: int) -> Span:
        """A copy from another chip over the scale-up fabric; over both host links where there is none."""
        device, source, spec = self._device(device_index), self._device(source_index), self.spec
        link = spec.scale_up if spec.scale_up is not None else spec.host_link
        hops = 1 if spec.scale_up is not None else 2
        duration_fs = hops * (s_to_fs(link.latency_s) + bytes_to_fs(n_bytes, link.bytes_per_s))
        sent_fs = self._stream(source_index, stream_id).ready_fs
        free_fs = max(device.fabric_free_fs, source.fabric_free_fs, sent_fs)
        span = self._copy("peer copy", device_index, stream_id, free_fs, duration_fs, n_bytes)
        device.fabric_free_fs = source.fabric_free_fs = span.end_fs
        self._extend(self._stream(source_index, stream_id), span.end_fs, 0)
        return span

    def host_fallback(self, device_index: int, stream_id: int, name: str, n_bytes_in: int, n_bytes_out: int) -> Span:
        """An op the host computes: wait for the stream, bytes down, host work, bytes up; the host is busy all along."""
        link = self.spec.host_link
        self.synchronize_stream(device_index, stream_id)
        start_fs = self.host_fs
        moved = n_bytes_in + n_bytes_out
        trips = (n_bytes_in > 0) + (n_bytes_out > 0)
        self.host_fs += trips * s_to_fs(link.latency_s) + bytes_to_fs(moved, link.bytes_per_s)
        self.host_fs += bytes_to_fs(moved, HOST_BYTES_PER_S)
        self._extend(self._stream(device_index, stream_id), self.host_fs, 0)
        work = Work(n_bytes=moved)
        return self._span(name, Kind.HOST, device_index, stream_id, start_fs, start_fs, self.host_fs, work)

    def _copy(self, name: str, device_index: int, stream_id: int, free_fs: int, duration_fs: int, n_bytes: int) -> Span:
        stream = self._stream(device_index, stream_id)
        self._enqueue(None)
        submit_fs = self.host_fs
        start_fs = max(submit_fs, stream.ready_fs, free_fs)
        self._extend(stream, start_fs + duration_fs, 0)
        work = Work(n_bytes=n_bytes)
        return self._span(name, Kind.COPY, device_index, stream_id, submit_fs, start_fs, start_fs + duration_fs, work)

    def _enqueue(self, host_cost_fs: int | None) -> None:
        if not self._free_enqueues:
            self.host_fs += self._path.host_fs if host_cost_fs is None else host_cost_fs

    @staticmethod
    def _extend(stream: _Stream, end_fs: int, report_fs: int) -> None:
        stream.ready_fs = max(stream.ready_fs, end_fs)
        stream.reported_fs = max(stream.reported_fs, end_fs + report_fs)

    def _span(
        self,
        name: str,
        kind: Kind | str,
        device_index: int,
        stream_id: int,
        submit_fs: int,
        start_fs: int,
        end_fs: int,
        work: Work | None,
    ) -> Span:
        work = work if work is not None else NO_WORK
        kind = kind if isinstance(kind, Kind) else Kind(kind)
        span = Span(name, kind, device_index, stream_id, submit_fs, start_fs, end_fs, work)
        if record.is_recording():
            record.add(span)
        return span

    @contextmanager
    def replaying(self, captured: tuple[int, int], onto: tuple[int, int]) -> Iterator[None]:
        """A graph replay: what the block submits to the (device, stream) `captured` goes to `onto`, and all of it costs
        the host one enqueue."""
        self._enqueue(None)
        previous, self._free_enqueues = self._free_enqueues, True
        self._stand_in[captured] = onto
        try:
            yield
        finally:
            self._free_enqueues = previous
            del self._stand_in[captured]

    # --- waiting ------------------------------------------------------------------------------------------------------

    def synchronize_stream(self, device_index: int, stream_id: int) -> None:
        self.host_fs = max(self.host_fs, self._stream(device_index, stream_id).reported_fs)

    def synchronize_device(self, device_index: int) -> None:
        ends = [s.reported_fs for (d, _), s in self._streams.items() if d == device_index]
        self.host_fs = max([self.host_fs, *ends])

    def stream_is_idle(self, device_index: int, stream_id: int) -> bool:
        """Asking costs the host time, so that a loop that polls comes to an end."""
        self._poll()
        return self._stream(device_index, stream_id).reported_fs <= self.host_fs

    def _poll(self) -> None:
        self.host_fs += max(1, self._path.host_fs)

    # --- events -------------------------------------------------------------------------------------------------------

    def record_event(self, event_id: int, device_index: int, stream_id: int) -> int:
        """An event at the end of what the stream holds now. `event_id` 0: a new one. Returns its id."""
        event_id = event_id or next(self._event_ids)
        stream = self._stream(device_index, stream_id)
        self._events[event_id] = (max(stream.ready_fs, self.host_fs), (device_index, stream_id))
        return event_id

    def wait_event(self, event_id: int, device_index: int, stream_id: int) -> None:
        """Later work of the stream starts after the event."""
        stream = self._stream(device_index, stream_id)
        stream.ready_fs = max(stream.ready_fs, self._events[event_id][0])

    def event_has_passed(self, event_id: int) -> bool:
        self._poll()
        return self._events[event_id][0] <= self.host_fs

    def synchronize_event(self, event_id: int) -> None:
        self.host_fs = max(self.host_fs, self._events[event_id][0])

    def elapsed_ms(self, start_id: int, end_id: int) -> float:
        return fs_to_s(self._events[end_id][0] - self._events[start_id][0]) * 1e3

    def forget_event(self, event_id: int) -> None:
        self._events.pop(event_id, None)

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def now_fs(self) -> int:
        """When all that was submitted so far is done: the host clock, or the last end where that is later."""
        return max([self.host_fs, *(s.reported_fs for s in self._streams.values())])

    def advance_host(self, duration_fs: int) -> None:
        """Host work that the caller accounts for (a data loader, a scheduler)."""
        self.host_fs += duration_fs

    def _device(self, index: int) -> _Device:
        found = self._devices.get(index)
        if found is None:
            found = self._devices[index] = _Device()
        return found

    def _stream(self, device_index: int, stream_id: int) -> _Stream:
        key = (device_index, stream_id)
        key = self._stand_in.get(key, key) if self._stand_in else key
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = _Stream()
        return found


_process_clock: Clock | None = None


def clock() -> Clock:
    """The clock of this process, following the chip in force."""
    global _process_clock
    if _process_clock is None:
        _process_clock = Clock()
    return _process_clock


def submit(
    device_index: int,
    stream_id: int,
    name: str,
    kind: Kind | str,
    device_duration_fs: int,
    host_cost_fs: int | None = None,
    record: Work | None = None,
) -> Span:
    """`Clock.submit` on the process's clock."""
    return clock().submit(device_index, stream_id, name, kind, device_duration_fs, host_cost_fs, record)


def simulated_time_s() -> float:
    """Simulated seconds since the start, to the end of all submitted work."""
    return fs_to_s(clock().now_fs)


__all__ = ["HOST_BYTES_PER_S", "Clock", "clock", "simulated_time_s", "submit"]
