package blockstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"

	"github.com/ipfs/go-cid"
)

// TestCrash cuts the power before every operation of each workload, leaves on
// the disk none, some or all of what was not synced, and checks what a store
// makes of it (crashState.check). Of some states, it cuts the recovery likewise.
func TestCrash(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1) // of pack IDs: a failure can be had again
	seeds := 9
	if testing.Short() {
		seeds = 1
	}
	total := 0
	for i, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			run := &crashRun{t: t, disk: newCrashFS(nil), seed: uint64(i+1) << 32}
			run.open()
			w.do(run)
			e := &enumeration{t: t, seeds: seeds, blocks: run.blocks}
			e.all(run.disk)
			t.Logf("%d operations, %d states", len(run.disk.journal), len(e.seen))
			total += len(e.seen)
		})
	}
	if total < 10_000 && !testing.Short() && !t.Failed() {
		t.Errorf("only %d distinct states", total)
	}
	t.Logf("%d distinct states", total)
}

// enumeration checks the crashed disks of one workload.
type enumeration struct {
	t      *testing.T
	seeds  int
	blocks []Block // that the workload wrote, acknowledged or not

	mu   sync.Mutex
	seen map[uint64]struct{} // hashes of the states checked
}

// again is how many states of a workload there are to one whose recovery is cut
// too.
const again = 40

// origin is a disk whose journal is to be cut.
type origin struct {
	disk    *crashFS
	status  map[cid.Cid]promise // of blocks acknowledged before the journal begins
	history string              // how the disk came about
}

// all checks the disks that a cut anywhere in the journal of d leaves, and for
// some of these the disks that a cut anywhere in their recovery leaves.
func (e *enumeration) all(d *crashFS) {
	e.seen = make(map[uint64]struct{})
	recovered := e.each([]origin{{disk: d}}, e.seeds)
	e.each(recovered, e.seeds/3)
}

// each checks the disks that a cut in any journal leaves, and returns some of
// them, recovered.
func (e *enumeration) each(origins []origin, seeds int) (recovered []origin) {
	type job struct {
		state crashState
		of    origin
	}
	jobs := make(chan job)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for j := range jobs {
				history := j.of.history + j.state.String()
				d := e.check(j.state, history)
				if d != nil && j.state.hash%again == 0 {
					e.mu.Lock()
					recovered = append(recovered, origin{d, j.state.status, history + "; then "})
					e.mu.Unlock()
				}
			}
		})
	}
	for _, o := range origins {
		for s := range e.states(o.disk, seeds, o.status) {
			if e.t.Failed() {
				break // one failure tells enough
			}
			jobs <- job{s, o}
		}
	}
	close(jobs)
	workers.Wait()
	return recovered
}

// check checks s, which came about as history says, and returns the disk that it
// went on with; nil if something was wrong.
func (e *enumeration) check(s crashState, history string) *crashFS {
	d, err := s.check(e.blocks)
	if err != nil {
		e.t.Errorf("%s: %v", history, err)
		return nil
	}
	return d
}

// states yields the distinct disks that a cut in the journal of d may leave.
// before are the blocks acknowledged before d came to be.
func (e *enumeration) states(d *crashFS, seeds int, before map[cid.Cid]promise) func(yield func(crashState) bool) {
	keeps := []keep{
		{sector: 512},
		{sector: 512, sizes: 100},
		{sector: 512, names: 100},
		{sector: 512, names: 100, sizes: 100},
		{sector: 512, data: 100},
		{sector: 512, data: 100, names: 100},
	}
	for seed := range seeds {
		for _, sector := range []int{0, 512, 4096} {
			keeps = append(keeps, keep{data: 50, names: 50, sizes: 50, sector: sector, seed: uint64(seed)})
		}
		keeps = append(keeps, keep{data: 50, names: 100, sizes: 50, sector: 512, seed: uint64(seed)})
	}
	return func(yield func(crashState) bool) {
		status := maps.Clone(before)
		if status == nil {
			status = make(map[cid.Cid]promise)
		}
		for cut := d.start; cut <= len(d.journal); cut++ {
			if cut > d.start {
				switch op := d.journal[cut-1]; op.kind {
				case opAck:
					for _, b := range op.blocks {
						status[b.CID()] = acknowledged
					}
				case opDamage:
					status[op.blocks[0].CID()] = damaged
				case opForget:
					for _, b := range op.blocks {
						status[b.CID()] = nothing
					}
				}
			}
			promised := maps.Clone(status)
			for _, k := range keeps {
				files, certain := d.image(cut, k)
				s := crashState{files: files, status: promised, cut: cut, keep: k, next: "end"}
				if cut < len(d.journal) {
					s.next = d.journal[cut].String()
				}
				if e.isNew(&s) && !yield(s) {
					return
				}
				if certain {
					break
				}
			}
		}
	}
}

// isNew says whether s differs from all states before, in its files or in what
// was promised.
func (e *enumeration) isNew(s *crashState) bool {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		fmt.Fprintf(h, "%s %d ", name, len(s.files[name]))
		h.Write(s.files[name])
	}
	promises := make([]byte, len(e.blocks))
	for i, b := range e.blocks {
		promises[i] = byte(s.status[b.CID()])
	}
	h.Write(promises)
	s.hash = binary.LittleEndian.Uint64(h.Sum(nil))
	e.mu.Lock()
	defer e.mu.Unlock()
	_, old := e.seen[s.hash]
	e.seen[s.hash] = struct{}{}
	return !old
}

// promise is what the store said of a block before a power cut.
type promise byte

const (
	nothing      promise = iota
	acknowledged         // durable
	damaged              // acknowledged, and then the disk changed it
)

// crashState is a disk after a power cut.
type crashState struct {
	files  map[string][]byte
	status map[cid.Cid]promise
	hash   uint64

	cut  int
	next string // operation that did not happen
	keep keep
}

func (s crashState) String() string {
	return fmt.Sprintf("cut before operation %d (%s), %+v", s.cut, s.next, s.keep)
}

var afterCrash = []Block{noise(1<<60, 700), noise(1<<60+1, 90)}

// check opens a store on s, reads blocks, which are all that may be in it,
// stores them and some of the missing ones, cuts the power again with nothing
// unsynced kept, and opens the store once more. It returns the disk before that
// second cut.
func (s crashState) check(blocks []Block) (*crashFS, error) {
	d := newCrashFS(s.files)
	store, err := Open(d, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	var held, missing []Block
	for _, b := range blocks {
		got, err := store.Get(context.Background(), b.CID())
		promised := s.status[b.CID()]
		switch {
		case err == nil && bytes.Equal(got.Data(), b.Data()):
			held = append(held, b)
		case err == nil:
			return nil, fmt.Errorf("%s: wrong bytes", b.CID())
		case promised == acknowledged:
			return nil, fmt.Errorf("acknowledged block: %w", err)
		case errors.Is(err, ErrNotFound), promised == damaged && errors.Is(err, ErrCorrupt):
			missing = append(missing, b)
		default:
			return nil, fmt.Errorf("block not acknowledged: %w", err)
		}
	}
	smallest(store)
	missing = append(missing[:min(len(missing), 8)], afterCrash...)
	// What was not acknowledged but survived is durable when it is stored again.
	puts := slices.Concat([][]Block{held}, slices.Collect(slices.Chunk(missing, 4)))
	for _, b := range puts {
		if err := store.Put(b...); err != nil {
			return nil, fmt.Errorf("write on: %w", err)
		}
		d.ack(b...)
	}
	if err := holds(store, held, missing); err != nil {
		return nil, fmt.Errorf("written on: %w", err)
	}

	files, _ := d.image(len(d.journal), keep{sector: 512})
	d2 := newCrashFS(files)
	if store, err = Open(d2, slog.New(slog.DiscardHandler)); err != nil {
		return nil, fmt.Errorf("second recovery: %w", err)
	}
	if err := holds(store, held, missing); err != nil {
		return nil, fmt.Errorf("second recovery: %w", err)
	}
	return d, tidy(d2)
}

// holds checks that all blocks are read back.
func holds(s *Store, lists ...[]Block) error {
	for _, blocks := range lists {
		for _, b := range blocks {
			got, err := s.Get(context.Background(), b.CID())
			if err != nil {
				return err
			}
			if !bytes.Equal(got.Data(), b.Data()) {
				return fmt.Errorf("%s: wrong bytes", b.CID())
			}
		}
	}
	return nil
}

// tidy checks that the start of a store on d, which is the second one after a
// crash, had nothing left to do but to replay the last pack, so that no crash
// leaves work to every later start.
func tidy(d *crashFS) error {
	for _, op := range d.journal[d.start:] {
		if op.kind == opCreate || op.kind == opRename || op.kind == opRemove {
			return fmt.Errorf("second recovery: %s", op)
		}
	}
	last := ""
	for name := range d.names {
		if strings.HasSuffix(name, packSuffix) {
			last = max(last, name)
		}
	}
	for name, f := range d.names {
		number, ok := parsePackName(name)
		if !ok {
			continue
		}
		if !strings.HasPrefix(string(f.data), packMagic) {
			return fmt.Errorf("second recovery: %s without a head", name)
		}
		if _, ok := d.names[indexName(number)]; !ok && name != last {
			return fmt.Errorf("second recovery: %s without an index", name)
		}
	}
	return nil
}

func (op crashOp) String() string {
	switch op.kind {
	case opWrite:
		return fmt.Sprintf("write %s at %d, %d bytes", op.name, op.off, len(op.data))
	case opAck, opForget:
		return fmt.Sprintf("%s %d blocks", op.kind, len(op.blocks))
	default:
		return strings.TrimSpace(string(op.kind) + " " + op.name)
	}
}
