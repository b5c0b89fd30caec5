package blockstore

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
)

// crashRun is a store on a crashFS, and what a workload did with it.
type crashRun struct {
	t      *testing.T
	disk   *crashFS
	store  *Store
	blocks []Block // all that were made
	seed   uint64  // of the next block
}

// smallest makes s seal its packs after a few blocks.
func smallest(s *Store) *Store {
	s.maxPackSize, s.maxPackRecords = 3000, 7
	s.encoder = crashEncoder
	return s
}

// crashEncoder serves all stores: each would make its own at the first Put, which
// takes longer than all else that is done to it.
var crashEncoder, _, _ = newCodec()

// open opens the store. If there is one, it is as if its process was killed: it
// closes nothing, and what it wrote is there, but no more durable than before.
func (r *crashRun) open() {
	r.t.Helper()
	s, err := Open(r.disk, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	r.store = smallest(s)
}

// block makes a block that there was not yet.
func (r *crashRun) block() Block {
	r.seed++
	n := rand.New(rand.NewPCG(r.seed, 2)).IntN(600)
	b := noise(r.seed, 20+n)
	switch r.seed % 8 {
	case 0, 3:
		b = text(int(r.seed), 40+n)
	case 5:
		b = noise(r.seed, 1500+n)
	case 6:
		// Holds what looks like the record of another block, but is not.
		b = Sum(cid.Raw, r.store.appendRecord(noise(r.seed, 500+n).Data(), Block{cid: r.blocks[0].CID(), data: b.Data()}))
	}
	r.blocks = append(r.blocks, b)
	return b
}

func (r *crashRun) some(n int) []Block {
	blocks := make([]Block, n)
	for i := range blocks {
		blocks[i] = r.block()
	}
	return blocks
}

// put stores blocks, and says whether the store acknowledged them.
func (r *crashRun) put(blocks ...Block) bool {
	r.t.Helper()
	if err := r.store.Put(blocks...); err != nil {
		return false
	}
	r.disk.ack(blocks...)
	if err := holds(r.store, blocks); err != nil {
		r.t.Error(err)
	}
	return true
}

// mustPut is put that must succeed.
func (r *crashRun) mustPut(blocks ...Block) {
	r.t.Helper()
	if !r.put(blocks...) {
		r.t.Fatal("Put failed")
	}
}

// write has w write and flush blocks.
func (r *crashRun) write(w *Writer, blocks ...Block) {
	r.t.Helper()
	for _, b := range blocks {
		if _, err := w.Write(b); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

// sync makes durable all that was flushed, blocks among it.
func (r *crashRun) sync(blocks ...Block) {
	r.t.Helper()
	if err := r.store.Sync(); err != nil {
		r.t.Fatal(err)
	}
	r.disk.ack(blocks...)
}

var errDisk = errors.New("input/output error")

// breakOnce lets the next operation of a kind fail on a file whose name ends in
// suffix.
func (r *crashRun) breakOnce(kind opKind, suffix string) {
	r.disk.fail = func(k opKind, name string) error {
		if k == kind && strings.HasSuffix(name, suffix) {
			return errDisk
		}
		return nil
	}
}

// broken writes until an operation has failed, and what was refused then once
// more.
func (r *crashRun) broken(kind opKind, suffix string) {
	r.t.Helper()
	r.breakOnce(kind, suffix)
	for r.disk.fail != nil {
		if len(r.blocks) > 200 {
			r.t.Fatalf("no %s of %s", kind, suffix)
		}
		a := r.some(2)
		if !r.put(a...) {
			r.mustPut(a...)
		}
	}
}

var workloads = []struct {
	name string
	do   func(*crashRun)
}{
	{"one writer", func(r *crashRun) {
		r.store.maxPackSize, r.store.maxPackRecords = maxPackSize, maxPackRecords
		for i := range 12 {
			r.mustPut(r.some(1 + i%4)...)
		}
	}},
	{"sealing", func(r *crashRun) {
		for i := range 14 {
			r.mustPut(r.some(1 + i%3)...)
		}
	}},
	{"several writers", func(r *crashRun) {
		w := []*Writer{r.store.NewWriter(), r.store.NewWriter(), r.store.NewWriter()}
		for i := range 6 {
			// Flushed into one pack, synced when there may be another.
			a, b := r.some(3), r.some(2)
			r.write(w[i%3], a...)
			r.write(w[(i+1)%3], b...)
			if i%2 == 0 {
				r.sync(append(a, b...)...)
				continue
			}
			// Another writer's blocks are as durable as one's own.
			r.mustPut(a...)
			// What is flushed while a sync runs waits for the next.
			c, late := r.block(), r.block()
			r.write(w[i%3], c)
			r.disk.duringSync = func() { r.write(w[(i+2)%3], late) }
			r.sync(c)
			if r.disk.duringSync != nil {
				r.disk.duringSync = nil
				r.t.Error("Sync synced nothing")
				r.write(w[0], late)
			}
			r.sync(late)
		}
	}},
	{"at once", func(r *crashRun) {
		var wg sync.WaitGroup
		shared := r.some(4)
		for range 4 {
			own := r.some(6)
			wg.Go(func() {
				for i, b := range own {
					if err := r.store.Put(b, shared[i%4]); err != nil {
						r.t.Error(err)
						return
					}
					r.disk.ack(b, shared[i%4])
				}
			})
		}
		wg.Wait()
	}},
	{"killed", func(r *crashRun) {
		for i := range 5 {
			r.mustPut(r.some(2)...)
			a := r.some(2 + i)
			r.write(r.store.NewWriter(), a...) // and never synced by this process
			r.open()
			r.mustPut(a...)
			r.mustPut(r.block())
			if i%2 == 0 {
				r.open()
			}
		}
	}},
	{"failed index", func(r *crashRun) {
		for _, kind := range []opKind{opCreate, opWrite, opSync, opRename} {
			r.broken(kind, tempSuffix)
		}
		r.broken(opSyncDir, "")
		r.open()
		r.mustPut(r.some(2)...)
	}},
	{"failed sealing", func(r *crashRun) {
		r.broken(opWrite, packSuffix) // of a batch
		r.broken(opTruncate, packSuffix)
		r.open()
		r.mustPut(r.some(2)...)
	}},
	{"failed making of a pack", func(r *crashRun) {
		r.mustPut(r.block())
		for _, kind := range []opKind{opCreate, opWrite, opSync, opSyncDir} {
			next := packName(r.store.lastNumber + 1)
			r.disk.fail = func(k opKind, name string) error {
				if _, made := r.disk.names[next]; k == kind && (made || name == next) {
					return errDisk
				}
				return nil
			}
			for r.disk.fail != nil {
				a := r.some(2)
				if !r.put(a...) {
					r.mustPut(a...)
				}
			}
		}
	}},
	{"failed sync", func(r *crashRun) {
		r.mustPut(r.some(3)...)
		a := r.some(3)
		r.breakOnce(opSync, packSuffix)
		if r.put(a...) {
			r.t.Fatal("a failed sync was acknowledged")
		}
		// The page cache still shows what never reached the disk.
		r.mustPut(a...)
		b := r.some(2)
		r.breakOnce(opSync, packSuffix)
		if r.put(b...) {
			r.t.Fatal("a failed sync was acknowledged")
		}
		r.open()
		r.mustPut(b...)
	}},
	{"failed again", func(r *crashRun) {
		for range 3 {
			r.mustPut(r.some(3)...)
			a := r.some(2)
			r.breakOnce(opSync, packSuffix)
			if r.put(a...) {
				r.t.Fatal("a failed sync was acknowledged")
			}
			for _, kind := range []opKind{opCreate, opWrite, opSync, opTruncate} {
				r.breakOnce(kind, packSuffix)
				if r.put(a...) {
					r.t.Fatalf("a failed %s was acknowledged", kind)
				}
			}
			r.mustPut(a...)
		}
	}},
	{"collected", func(r *crashRun) {
		var old []Block
		for range 3 {
			a := r.some(9)
			r.mustPut(a...)
			old = append(old, a...)
			r.mustPut(r.some(3)...)
			var gone []Block
			for i, b := range old {
				if i%4 != 0 {
					gone = append(gone, b)
				}
			}
			r.collect(gone...)
			r.mustPut(gone[0], r.block())
		}
		r.collect(r.blocks...)
		r.mustPut(r.some(2)...)
	}},
	{"failed collection", func(r *crashRun) {
		for _, kind := range []opKind{opCreate, opWrite, opSync, opRename, opRemove, opSyncDir} {
			a := r.some(12)
			r.mustPut(a...)
			suffix := ""
			if kind == opWrite || kind == opSync {
				suffix = packSuffix
			}
			r.breakOnce(kind, suffix)
			r.collect(a[:9]...)
			r.disk.fail = nil
			r.mustPut(r.block(), a[2])
			r.collect(a[2])
		}
	}},
	{"repaired", func(r *crashRun) {
		for i := range 3 {
			a := r.some(8)
			r.mustPut(a...)
			r.damage(a[1])
			r.disk.damage(a[6]) // which nobody has noticed
			r.repair(i%2 == 0)
			r.mustPut(a[1], a[6], r.block())
			if i == 1 {
				if err := r.store.DropQuarantine(r.store.Quarantined()); err != nil {
					r.t.Fatal(err)
				}
			}
			r.repair(true)
		}
	}},
	{"failed repair", func(r *crashRun) {
		for _, kind := range []opKind{opCreate, opWrite, opSync, opRename, opRemove, opSyncDir} {
			a := r.some(8)
			r.mustPut(a...)
			r.damage(a[1])
			r.breakOnce(kind, "")
			r.store.Repair(context.Background(), true, func(error) {}, nil)
			r.disk.fail = nil
			r.mustPut(a[1], r.block())
			r.repair(true)
			r.mustPut(a[1], a[4])
		}
	}},
	{"damaged record", func(r *crashRun) {
		var old []Block
		for i := range 4 {
			a := r.some(3)
			r.mustPut(a...)
			old = append(old, a[1])
			// The youngest is in the active pack, the others are sealed or not.
			for _, b := range []Block{a[1], old[i/2]} {
				r.damage(b)
				r.mustPut(b)
			}
			r.mustPut(r.some(2)...)
		}
	}},
}

// damage changes the record of b on the disk, and has the store notice.
func (r *crashRun) damage(b Block) {
	r.t.Helper()
	r.store.cache = newCache(0)
	r.disk.damage(b)
	if _, err := r.store.Get(context.Background(), b.CID()); !errors.Is(err, ErrCorrupt) {
		r.t.Fatalf("Get of a damaged block = %v", err)
	}
}

// collect removes blocks, and adds some while it looks for what is to stay.
func (r *crashRun) collect(gone ...Block) {
	r.t.Helper()
	r.disk.forget(gone...)
	forgotten := make(map[cid.Cid]bool)
	for _, b := range gone {
		forgotten[b.CID()] = true
	}
	r.store.Collect(context.Background(), func(m *Marks) error {
		for _, b := range r.blocks {
			if !forgotten[b.CID()] {
				m.Add(b.CID())
			}
		}
		if r.disk.fail == nil {
			r.mustPut(r.block())
		}
		return nil
	}, nil)
}

// repair repairs the store, which must leave no damage.
func (r *crashRun) repair(all bool) {
	r.t.Helper()
	if _, err := r.store.Repair(context.Background(), all, func(error) {}, nil); err != nil {
		r.t.Fatal(err)
	}
	if !all {
		return
	}
	if _, err := r.store.Check(context.Background(), true, func(err error) { r.t.Error(err) }, nil); err != nil {
		r.t.Fatal(err)
	}
}
