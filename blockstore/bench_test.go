package blockstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

// benchBlock returns the ith block of n bytes, which no compression helps.
func benchBlock(i, n int) Block {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), uint64(i)))).Read(data)
	return Sum(cid.Raw, data)
}

// fillBench stores count blocks of n bytes, durably.
func fillBench(b *testing.B, s *Store, count, n int) []cid.Cid {
	b.Helper()
	cids := make([]cid.Cid, count)
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			out := s.NewWriter()
			for i := w; i < count; i += 2 {
				block := benchBlock(i, n)
				cids[i] = block.CID()
				if _, err := out.Write(block); err != nil {
					b.Error(err)
					return
				}
			}
			if err := out.Flush(); err != nil {
				b.Error(err)
			}
		})
	}
	writers.Wait()
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
	return cids
}

// BenchmarkGet reads blocks of 4 KiB at random that the page cache has and the store's
// own cache does not.
func BenchmarkGet(b *testing.B) {
	for name, block := range map[string]func(i int) Block{
		"plain": func(i int) Block { return benchBlock(i, 4096) },
		"zstd":  func(i int) Block { return text(i, 4096) },
	} {
		b.Run(name, func(b *testing.B) {
			s := openDir(b, b.TempDir())
			blocks := make([]cid.Cid, 100_000)
			w := s.NewWriter()
			for i := range blocks {
				c := block(i)
				blocks[i] = c.CID()
				if _, err := w.Write(c); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			s.cache = newCache(0)
			b.SetBytes(4096)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Get(context.Background(), blocks[rand.IntN(len(blocks))]); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
		})
	}
}

// BenchmarkMissing looks up blocks that a store of a million does not hold.
func BenchmarkMissing(b *testing.B) {
	s := openDir(b, b.TempDir())
	fillBench(b, s, 1_000_000, 100)
	absent := make([]cid.Cid, 1000)
	for i := range absent {
		absent[i] = benchBlock(-1-i, 100).CID()
	}
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if ok, err := s.Has(absent[i%len(absent)]); ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// BenchmarkOpen opens, in a process of its own, a store of a million blocks: one that
// was closed, one that was killed with a pack half full, which has to be replayed.
func BenchmarkOpen(b *testing.B) {
	for _, state := range []struct {
		name  string
		size  int // bytes of a block
		seals bool
	}{{"closed", 100, true}, {"killed", 100, false}, {"killed, 128 MiB to replay", 1000, false}} {
		b.Run(state.name, func(b *testing.B) {
			path := b.TempDir()
			s := openDir(b, path)
			fillBench(b, s, 1_000_000, state.size)
			if state.seals {
				if _, err := s.sealAll(); err != nil {
					b.Fatal(err)
				}
			}
			// As a kill leaves it: Close would not seal either.
			var took, resident float64
			for b.Loop() {
				cmd := exec.Command(os.Args[0], "-test.run=^TestOpenAlone$", "-test.v")
				cmd.Env = append(os.Environ(), openEnv+"="+path)
				out, err := cmd.Output()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				_, line, _ := strings.Cut(string(out), openEnv)
				var ms, kb float64
				if _, err := fmt.Sscan(line, &ms, &kb); err != nil {
					b.Fatalf("%v in %q", err, out)
				}
				took, resident = took+ms, resident+kb
			}
			b.ReportMetric(took/float64(b.N), "open-ms")
			b.ReportMetric(resident/float64(b.N)/1024, "resident-MB")
		})
	}
}

// openEnv names a store for TestOpenAlone.
const openEnv = "POLLUX_TEST_OPEN"

// TestOpenAlone is the process that BenchmarkOpen starts. Alone it opens an empty store.
func TestOpenAlone(t *testing.T) {
	path := os.Getenv(openEnv)
	if path == "" {
		path = t.TempDir()
	}
	dir, err := Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Logf("resident memory is not known: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	t.Log(openEnv, float64(took.Microseconds())/1000, kb)
}

// BenchmarkRebuild opens a store of 1 GiB without its indexes, from the disk, and
// compares that with reading the packs. Blocks are of the size of pages.
func BenchmarkRebuild(b *testing.B) {
	path := b.TempDir()
	s := openDir(b, path)
	fillBench(b, s, 1<<16, 16<<10)
	if _, err := s.sealAll(); err != nil {
		b.Fatal(err)
	}
	s.Close()
	dir, err := Dir(path)
	if err != nil {
		b.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(path, "*"+packSuffix))
	if err != nil {
		b.Fatal(err)
	}
	cold := func() {
		for _, p := range packs {
			f, err := dir.Open(filepath.Base(p))
			if err != nil {
				b.Fatal(err)
			}
			if err := f.Uncache(); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	}
	var reading, opening time.Duration
	buf := make([]byte, 1<<20)
	for b.Loop() {
		b.StopTimer()
		cold()
		start := time.Now()
		for _, p := range packs {
			f, err := os.Open(p)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
		reading += time.Since(start)
		cold()
		for _, p := range packs {
			os.Remove(strings.TrimSuffix(p, packSuffix) + indexSuffix)
		}
		b.StartTimer()
		start = time.Now()
		s := openDir(b, path)
		opening += time.Since(start)
		if s.Stats().Blocks != 1<<16 {
			b.Fatal(s.Stats())
		}
		s.Close()
	}
	b.SetBytes(1 << 30)
	b.ReportMetric(float64(reading)/float64(opening), "of-read-rate")
}

// BenchmarkCollect removes half of a million blocks.
func BenchmarkCollect(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := openDir(b, b.TempDir())
		cids := fillBench(b, s, 1_000_000, 1000)
		b.StartTimer()
		if stats, err := s.Collect(b.Context(), half(cids), nil); err != nil || stats.Blocks != 500_000 {
			b.Fatal(stats, err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

// half returns a mark function that keeps every other block.
func half(cids []cid.Cid) func(*Marks) error {
	return func(m *Marks) error {
		for i := 0; i < len(cids); i += 2 {
			m.Add(cids[i])
		}
		return nil
	}
}

// BenchmarkBesideCollect adds and reads, two goroutines each, while half of a million
// blocks are removed, and then for as long without, and compares.
func BenchmarkBesideCollect(b *testing.B) {
	var s *Store
	var cids []cid.Cid
	fresh := func() {
		s = openDir(b, b.TempDir())
		cids = fillBench(b, s, 1_000_000, 1000)
	}
	next := atomic.Int64{}
	next.Store(1 << 30)
	// work adds and reads until done is closed, and returns how much a second.
	work := func(done <-chan struct{}) (adds, reads float64) {
		var added, read atomic.Int64
		var workers sync.WaitGroup
		start := time.Now()
		until := func(do func()) {
			workers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						do()
					}
				}
			})
		}
		for range 2 {
			h := s.Hold()
			w := h.NewWriter()
			until(func() {
				for range 64 {
					if _, err := w.Write(benchBlock(int(next.Add(1)), 4000)); err != nil {
						b.Error(err)
					}
				}
				if err := w.Flush(); err != nil {
					b.Error(err)
				}
				added.Add(64)
			})
			until(func() {
				for range 64 {
					c := cids[rand.IntN(len(cids)/2)*2]
					if _, err := s.Get(context.Background(), c); err != nil {
						b.Error(err)
					}
				}
				read.Add(64)
			})
			defer h.Release()
		}
		workers.Wait()
		took := time.Since(start).Seconds()
		return float64(added.Load()) / took, float64(read.Load()) / took
	}
	var alone, beside [2]float64
	var collecting time.Duration
	for b.Loop() {
		b.StopTimer()
		fresh()
		b.StartTimer()
		done := make(chan struct{})
		start := time.Now()
		go func() {
			defer close(done)
			if _, err := s.Collect(b.Context(), half(cids), nil); err != nil {
				b.Error(err)
			}
		}()
		adds, reads := work(done)
		took := time.Since(start)
		collecting += took
		beside[0], beside[1] = beside[0]+adds, beside[1]+reads
		b.StopTimer()
		s.Close()
		fresh()
		done = make(chan struct{})
		time.AfterFunc(took, func() { close(done) })
		adds, reads = work(done)
		alone[0], alone[1] = alone[0]+adds, alone[1]+reads
		s.Close()
		b.StartTimer()
	}
	b.ReportMetric(collecting.Seconds()/float64(b.N), "collect-s")
	b.ReportMetric(alone[0]/float64(b.N), "adds/s-alone")
	b.ReportMetric(alone[1]/float64(b.N), "reads/s-alone")
	b.ReportMetric(beside[0]/alone[0], "adds-of-alone")
	b.ReportMetric(beside[1]/alone[1], "reads-of-alone")
}
