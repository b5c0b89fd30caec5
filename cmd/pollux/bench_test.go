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

// BenchmarkAdd adds a site to an empty repository, and again unchanged, and copies it
// with cp -r and sync, all from a warm page cache.
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

// BenchmarkAddMany adds a folder of very many small files, and again unchanged.
func BenchmarkAddMany(b *testing.B) {
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
	benchAdd(b, top, true)
}

func benchAdd(b *testing.B, source string, again bool) {
	readAll(b, source)
	out := b.TempDir()
	var copied, first, second time.Duration
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
		add := func() time.Duration {
			cmd := exec.Command("pollux", "--repo", m.repo, "add", "-q", "--hidden", "--allow-secrets", source)
			took := timed(b, cmd)
			peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			return took
		}
		first += add()
		if again {
			second += add()
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
	}
	b.ReportMetric(float64(disk)/float64(res.Bytes), "disk/bytes")
	b.ReportMetric(float64(peak)/1e3, "peak-MB") // Linux counts in KB
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
