package main

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pollux/node/api"
)

// siteEnv names the folder that BenchmarkAdd adds: a real site. Without it, it is the
// Go distribution.
const siteEnv = "POLLUX_BENCH_SITE"

// BenchmarkAdd adds a site to an empty repository, again unchanged, and again reading
// all, and copies it with cp -r and sync, all from a warm page cache.
func BenchmarkAdd(b *testing.B) {
	site := os.Getenv(siteEnv)
	if site == "" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			b.Fatal(err)
		}
		site = strings.TrimSpace(string(root))
	}
	benchAdd(b, site, true)
}

// BenchmarkAddLarge does so with one file of 1 GiB of random bytes.
func BenchmarkAddLarge(b *testing.B) {
	file := filepath.Join(b.TempDir(), "large")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for range 1 << 10 {
		r.Read(buf)
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	benchAdd(b, file, false)
}

// manyEnv says how many files BenchmarkAddMany makes, a million without it.
const manyEnv = "POLLUX_BENCH_FILES"

// BenchmarkAddMany adds a folder of very many small files, again unchanged, and again
// reading all.
func BenchmarkAddMany(b *testing.B) {
	benchAdd(b, writeMany(b), true)
}

// BenchmarkAddManyDaemon does so through a daemon, one right after another, so that the
// second and third meet the announcing of the first: another daemon is on the network.
// It reports the most resident memory of the daemon during each.
func BenchmarkAddManyDaemon(b *testing.B) {
	source := writeMany(b)
	adds := []struct {
		name string
		args []string
	}{{"first", nil}, {"again", nil}, {"rehash", []string{"--rehash"}}}
	peaks := make([]float64, len(adds))
	times := make([]time.Duration, len(adds))
	for b.Loop() {
		b.StopTimer()
		other := newMachine(b, "other").start(nil)
		m := newMachine(b, "bench").start(other)
		m.status("it has a peer", func(s api.Status) bool { return s.Connections > 0 })
		b.StartTimer()
		for i, add := range adds {
			m.resetPeak()
			args := append([]string{"--repo", m.repo, "add", "-q"}, add.args...)
			times[i] += timed(b, exec.Command("pollux", append(args, source)...))
			peaks[i] = max(peaks[i], m.peak())
		}
		b.StopTimer()
		m.stop(syscall.SIGTERM)
		other.stop(syscall.SIGTERM)
		b.StartTimer()
	}
	for i, add := range adds {
		b.ReportMetric(times[i].Seconds()/float64(b.N), add.name+"-s")
		b.ReportMetric(peaks[i], add.name+"-peak-MB")
	}
}

// resetPeak has peak begin anew.
func (m *machine) resetPeak() {
	m.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.cmd.Process.Pid), []byte("5"), 0); err != nil {
		m.t.Skipf("the peak of a running process is Linux's to tell: %v", err)
	}
}

// peak returns how many MB of memory of the daemon were resident at most.
func (m *machine) peak() float64 {
	m.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		m.t.Fatal(err)
	}
	return kib * 1024 / 1e6
}

// writeMany makes a folder of as many small files as manyEnv says.
func writeMany(b *testing.B) string {
	files := 1_000_000
	if s := os.Getenv(manyEnv); s != "" {
		var err error
		if files, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	top := filepath.Join(b.TempDir(), "many")
	if err := os.Mkdir(top, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(top, fmt.Sprintf("page-%07d.html", i)), fmt.Append(nil, i), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return top
}

func benchAdd(b *testing.B, source string, again bool) {
	readAll(b, source)
	out := b.TempDir()
	var copied, first, second, third time.Duration
	var peak int64
	var res api.AddResult
	var disk int64
	for b.Loop() {
		os.RemoveAll(filepath.Join(out, "copy"))
		os.RemoveAll(filepath.Join(out, "repo"))
		settle(b, out)
		copied += timed(b, exec.Command("sh", "-c", `cp -r "$0" "$1" && sync -f "$1"`, source, filepath.Join(out, "copy")))
		os.RemoveAll(filepath.Join(out, "copy"))
		settle(b, out)
		m := &machine{t: b, name: "bench", repo: filepath.Join(out, "repo")}
		add := func(args ...string) time.Duration {
			cmd := exec.Command("pollux", append([]string{"--repo", m.repo, "add", "-q", "--hidden", "--allow-secrets", source}, args...)...)
			took := timed(b, cmd)
			peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			return took
		}
		first += add()
		if again {
			second += add()
			third += add("--rehash")
		}
		b.StopTimer()
		m.run(&res, "add", "--hidden", "--allow-secrets", source)
		var st api.Status
		m.run(&st, "status")
		disk = st.Store.DiskBytes
		b.StartTimer()
	}
	n := float64(b.N)
	b.ReportMetric(float64(res.Files), "files")
	b.ReportMetric(float64(res.Bytes)/1e6, "MB")
	b.ReportMetric(copied.Seconds()/n, "cp-s")
	b.ReportMetric(first.Seconds()/n, "add-s")
	b.ReportMetric(first.Seconds()/copied.Seconds(), "add/cp")
	if again {
		b.ReportMetric(second.Seconds()/n, "again-s")
		b.ReportMetric(second.Seconds()/first.Seconds(), "again/add")
		b.ReportMetric(third.Seconds()/n, "rehash-s")
	}
	b.ReportMetric(float64(disk)/float64(res.Bytes), "disk/bytes")
	b.ReportMetric(float64(peak)*1024/1e6, "peak-MB") // Linux counts in KiB
}

// readAll brings a tree into the page cache. It takes little memory: what this process
// takes counts as taken by those that it starts.
func readAll(b *testing.B, root string) {
	buf := make([]byte, 1<<20)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// settle writes out what earlier work left, so that nobody pays for another's.
func settle(b *testing.B, dir string) { timed(b, exec.Command("sync", "-f", dir)) }

func timed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v: %s", cmd, err, &stderr)
	}
	return time.Since(start)
}
