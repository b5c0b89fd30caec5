//go:build linux

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// meter measures time and traffic of a transfer, from when it was made. No transfer pays for
// what was written, or how much memory was free, before.
type meter struct {
	world          *world
	start          time.Time
	sent, received int64 // before
}

func (w *world) meter() (t *meter, err error) {
	for _, n := range w.machines() {
		if n.daemon == nil {
			continue
		}
		if err := n.forgetPeak(); err != nil {
			return nil, err
		}
	}
	unix.Sync()
	if w.wan == nil {
		if err := w.warm(); err != nil {
			return nil, err
		}
	}
	t = &meter{world: w}
	t.sent, t.received, err = w.traffic()
	t.start = time.Now()
	return t, err
}

// warm writes a file of somewhat more than the site, and removes it before it is on the disk:
// where the host of a virtual machine takes memory that is free for long, the first to use it
// again waits for as long as the transfer takes. Linux hands out first what was freed last, if
// it was of the same kind: memory of a process is not what a file gets.
func (w *world) warm() (err error) {
	_, raw, err := treeSize(w.site)
	if err != nil {
		return err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	free := int64(info.Freeram) * int64(info.Unit)
	f, err := os.CreateTemp(w.dir, "warm-")
	if err != nil {
		return fmt.Errorf("use memory: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), f.Close()) }()
	part := make([]byte, 1<<20)
	for n := int64(0); n < min(raw+raw/4, free/2); n += int64(len(part)) {
		if _, err := f.Write(part); err != nil {
			return fmt.Errorf("use memory: %w", err)
		}
	}
	return nil
}

// dropCached has the kernel forget what it holds of the files of the machine's repository.
func (m *machine) dropCached() error {
	unix.Sync() // it holds on to what is not on the disk
	return filepath.WalkDir(m.repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// read measures a transfer of the site, or of its next version, or of both sites, that has
// just ended.
func (t *meter) read() (m measure, err error) {
	w := t.world
	m.Seconds = time.Since(t.start).Seconds()
	sent, received, err := w.traffic()
	if err != nil {
		return m, err
	}
	m.Wire = (received - t.received) / int64(len(w.mirrors))
	if w.wan != nil {
		m.SeedSent = sent - t.sent
	}
	m.Files, m.Raw, err = treeSize(cmp.Or(w.next, w.site))
	if w.other != "" && err == nil {
		var files, raw int64
		files, raw, err = treeSize(w.other)
		m.Files, m.Raw = m.Files+files, (m.Raw+raw)/int64(len(w.mirrors))
	}
	return m, err
}

// traffic adds up what the seeds sent, and what reached the mirrors.
func (w *world) traffic() (sent, received int64, err error) {
	for _, n := range w.seeds {
		s, _, err := n.traffic()
		if err != nil {
			return 0, 0, err
		}
		sent += s
	}
	for _, n := range w.mirrors {
		_, r, err := n.traffic()
		if err != nil {
			return 0, 0, err
		}
		received += r
	}
	return sent, received, nil
}

// peaks notes the most memory of a seed and of a mirror since meter.
func (w *world) peaks(m *measure) {
	for _, n := range w.seeds {
		m.SeedPeak = max(m.SeedPeak, n.peakMemory())
	}
	for _, n := range w.mirrors {
		m.MirrorPeak = max(m.MirrorPeak, n.peakMemory())
	}
}

// peakMemory returns the most bytes of memory that a machine's daemon had resident
// since forgetPeak, and 0 if there is none any more.
func (m *machine) peakMemory() int64 {
	if m.daemon == nil {
		return 0
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", m.daemon.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kb, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(kb, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// forgetPeak makes peakMemory begin anew (proc_pid_clear_refs(5)).
func (m *machine) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.daemon.cmd.Process.Pid), []byte("5"), 0)
}

// traffic returns the bytes of IP packets that the machine has sent and received.
// On loopback both are the bytes of all machines.
func (m *machine) traffic() (sent, received int64, err error) {
	if m.end != nil {
		return m.end.sent.Load(), m.end.received.Load(), nil
	}
	var table []byte
	err = m.ns.do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(table)) {
		if counts, ok := strings.CutPrefix(strings.TrimSpace(line), "lo:"); ok {
			if _, err := fmt.Sscan(counts, &received); err != nil {
				return 0, 0, err
			}
			return received, received, nil
		}
	}
	return 0, 0, errors.New("/proc/net/dev: no loopback interface")
}
