package blockstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/ipfs/go-cid"
)

// faults are what a disk may answer to any call. A write that fails has written half
// of its bytes.
var faults = []error{
	syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.EROFS, io.ErrShortWrite,
}

// TestFaults lets each call to the disk fail in turn, once or from then on, while a
// store writes, seals, reads, collects, repairs and starts again. Nothing that was
// acknowledged is lost, no error goes unsaid, and when the disk works again the same
// process writes, and repairs what it took for damage.
func TestFaults(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	calls := newFaultRun(t, nil, 0, false).calls
	if calls < 200 {
		t.Fatalf("only %d calls", calls)
	}
	step := 1
	if testing.Short() {
		step = 11
	}
	kinds := make(map[opKind]int)
	for _, fault := range faults {
		for _, stays := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, stays %v", fault, stays), func(t *testing.T) {
				for n := 1; n <= calls && !t.Failed(); n += step {
					kinds[newFaultRun(t, fault, n, stays).kind]++
				}
			})
		}
	}
	t.Logf("%d calls; failed: %v", calls, kinds)
	for _, kind := range []opKind{
		opCreate, opRename, opRemove, opSyncDir, opWrite, opTruncate, opSync, opOpen, opList, opRead, opSize, opUncache, opFree,
	} {
		if kinds[kind] == 0 && !testing.Short() {
			t.Errorf("no %s failed", kind)
		}
	}
}

// faultRun is a store on a disk whose nth call fails.
type faultRun struct {
	*crashRun
	fault error
	calls int
	kind  opKind // of the call that failed
	what  string // it was

	acked   map[cid.Cid]Block
	damaged Block
}

func newFaultRun(t *testing.T, fault error, n int, stays bool) *faultRun {
	r := &faultRun{
		crashRun: &crashRun{t: t, disk: newCrashFS(nil), seed: 7 << 32},
		fault:    fault, acked: make(map[cid.Cid]Block),
	}
	r.disk.failStays = stays
	r.disk.fail = func(kind opKind, name string) error {
		if r.calls++; fault == nil || r.calls < n || !stays && r.calls > n {
			return nil
		}
		if r.kind == "" {
			r.kind, r.what = kind, fmt.Sprintf("call %d, %s %s", n, kind, name)
		}
		return fault
	}
	r.use()
	r.lift()
	return r
}

// try does one thing that a fault may stop, and says whether it did not.
func (r *faultRun) try(what string, err error) bool {
	r.t.Helper()
	switch {
	case err == nil:
		return true
	case r.kind == "":
		r.t.Fatalf("%s without a fault: %v", what, err)
	case !errors.Is(err, r.fault):
		r.t.Fatalf("%s: %s = %v", r.what, what, err)
	}
	return false
}

// reopen opens the store as after a kill. If that fails, it lifts the fault: there is
// nothing else to be done with a disk that cannot be read.
func (r *faultRun) reopen() {
	r.t.Helper()
	s, err := Open(r.disk, slog.New(slog.DiscardHandler))
	if !r.try("Open", err) {
		r.disk.fail = nil
		if s, err = Open(r.disk, slog.New(slog.DiscardHandler)); err != nil {
			r.t.Fatalf("%s: Open after it: %v", r.what, err)
		}
	}
	r.store = smallest(s)
	r.store.cache = newCache(0)
	r.store.SetLimits(Limits{MinFree: 1})
}

func (r *faultRun) put(blocks ...Block) {
	r.t.Helper()
	if r.try("Put", r.store.Put(blocks...)) {
		r.disk.ack(blocks...)
		for _, b := range blocks {
			r.acked[b.CID()] = b
		}
	}
}

// use does all that a store can do.
func (r *faultRun) use() {
	ctx := context.Background()
	r.reopen()
	for i := range 6 {
		r.put(r.some(1 + i)...)
	}
	for _, b := range r.blocks {
		_, err := r.store.Get(ctx, b.CID())
		if !errors.Is(err, ErrNotFound) {
			r.try("Get", err)
		}
	}
	r.reopen()
	r.put(r.some(2)...)

	r.damaged = r.blocks[4]
	if _, ok := r.acked[r.damaged.CID()]; ok {
		r.disk.damage(r.damaged)
		delete(r.acked, r.damaged.CID())
		if _, err := r.store.Get(ctx, r.damaged.CID()); err == nil {
			r.t.Fatal("a damaged block was read")
		}
	}
	_, err := r.store.Repair(ctx, true, func(error) {}, nil)
	r.try("Repair", err)

	var gone []Block
	for i, b := range r.blocks {
		if i%3 > 0 {
			gone = append(gone, b)
			delete(r.acked, b.CID())
		}
	}
	r.disk.forget(gone...)
	_, err = r.store.Collect(ctx, func(m *Marks) error {
		for _, b := range r.acked {
			m.Add(b.CID())
		}
		return nil
	}, nil)
	r.try("Collect", err)
	r.put(r.some(3)...)
	r.reopen()
	r.put(r.some(3)...)
	if r.allHeld() {
		r.try("DropQuarantine", r.store.DropQuarantine(r.store.Quarantined()))
	}
	state := r.store.loadScrub()
	r.store.nextScrub(state, time.Now(), 0)
	r.store.saveScrub(state)
}

// allHeld says whether every block that was acknowledged can be read.
func (r *faultRun) allHeld() bool {
	for _, b := range r.acked {
		if holds(r.store, []Block{b}) != nil {
			return false
		}
	}
	return true
}

// lift ends the fault, and checks what is there: in this process, in one that is
// started now, and in one after a power cut.
func (r *faultRun) lift() {
	r.t.Helper()
	r.disk.fail = nil
	fresh := r.some(3)
	if err := r.store.Put(fresh...); err != nil {
		r.t.Fatalf("%s: Put after it: %v", r.what, err)
	}
	for _, b := range fresh {
		r.acked[b.CID()] = b
	}
	r.disk.ack(fresh...)
	if _, err := r.store.Repair(context.Background(), true, func(error) {}, nil); err != nil {
		r.t.Fatalf("%s: Repair after it: %v", r.what, err)
	}
	r.wantAcked("after it")
	r.reopen()
	r.wantAcked("after a restart")
	files, _ := r.disk.image(len(r.disk.journal), keep{sector: 512})
	r.disk = newCrashFS(files)
	r.reopen()
	r.wantAcked("after a power cut")
}

func (r *faultRun) wantAcked(when string) {
	r.t.Helper()
	for _, b := range r.acked {
		if err := holds(r.store, []Block{b}); err != nil {
			r.t.Fatalf("%s: %s: %v", r.what, when, err)
		}
	}
}
