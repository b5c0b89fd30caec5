package blockstore

import (
	"bytes"
	"io/fs"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// crashFS is an FS in memory that keeps a journal of what was done to it. From
// the journal, image makes the disks that a power cut may leave.
//
// What a running process sees is the page cache: names and the files' data. What
// survives is less. A write or truncation is durable when a Sync of its file that
// began after it succeeds, a creation, rename or removal when such a Sync of the
// directory does. As on Linux, what a failed sync covered is lost to every
// later one.
type crashFS struct {
	mu      sync.Mutex
	names   map[string]*crashFile
	journal []crashOp
	start   int // operations in the journal that made the first files

	// Both are nil, or called once and then unset. fail makes the operations for
	// which it returns an error fail, writes after half of their bytes; it is
	// asked again until it does, or, if it is to stay, for ever. duringSync runs while a
	// file is synced.
	fail       func(kind opKind, name string) error
	failStays  bool
	duringSync func()
}

type crashFile struct {
	fs   *crashFS
	name string
	data []byte
}

type opKind string

const (
	opCreate   opKind = "create"
	opRename   opKind = "rename"
	opRemove   opKind = "remove"
	opSyncDir  opKind = "sync directory"
	opWrite    opKind = "write"
	opTruncate opKind = "truncate"
	opSync     opKind = "sync"
	opOpen     opKind = "open"
	opList     opKind = "list"
	opRead     opKind = "read"
	opSize     opKind = "size"
	opUncache  opKind = "uncache"
	opFree     opKind = "free"
	opDamage   opKind = "damage"      // the disk changes a byte by itself
	opAck      opKind = "acknowledge" // the store says that blocks are durable
	opForget   opKind = "forget"      // blocks that may be collected from here on
)

// needsSync says whether an operation may be lost until a sync covers it.
func (k opKind) needsSync() bool {
	return k == opCreate || k == opRename || k == opRemove || k == opWrite || k == opTruncate
}

type crashOp struct {
	kind  opKind
	file  *crashFile // nil for a sync of the directory
	name  string     // of the file, before a rename
	to    string     // after a rename
	off   int64      // of a write; the new size of a truncation
	data  []byte     // of a write
	began int        // of a sync: it covers the operations before this one
	err   error      // of a sync

	blocks []Block // acknowledged, damaged or forgotten
}

// newCrashFS returns a disk that holds files.
func newCrashFS(files map[string][]byte) *crashFS {
	d := &crashFS{names: make(map[string]*crashFile)}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, _ := d.Create(name)
		f.WriteAt(files[name], 0)
		f.Sync()
	}
	d.Sync()
	d.start = len(d.journal)
	return d
}

// failure asks d.fail. The caller holds mu.
func (d *crashFS) failure(kind opKind, name string) error {
	if d.fail == nil {
		return nil
	}
	err := d.fail(kind, name)
	if err != nil && !d.failStays {
		d.fail = nil
	}
	return err
}

// check is failure, for what leaves no trace in the journal.
func (d *crashFS) check(kind opKind, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failure(kind, name)
}

func (d *crashFS) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(opOpen, name); err != nil {
		return nil, err
	}
	if f, ok := d.names[name]; ok {
		return f, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (d *crashFS) Create(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.names[name]; ok {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if err := d.failure(opCreate, name); err != nil {
		return nil, err
	}
	f := &crashFile{fs: d, name: name}
	d.names[name] = f
	d.journal = append(d.journal, crashOp{kind: opCreate, file: f, name: name})
	return f, nil
}

func (d *crashFS) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failure(opList, ""); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(d.names)), nil
}

func (d *crashFS) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.names[from]
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if err := d.failure(opRename, from); err != nil {
		return err
	}
	delete(d.names, from)
	d.names[to] = f
	f.name = to
	d.journal = append(d.journal, crashOp{kind: opRename, file: f, name: from, to: to})
	return nil
}

func (d *crashFS) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.names[name]
	if !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if err := d.failure(opRemove, name); err != nil {
		return err
	}
	delete(d.names, name)
	d.journal = append(d.journal, crashOp{kind: opRemove, file: f, name: name})
	return nil
}

func (d *crashFS) Sync() error { return d.sync(nil, opSyncDir, "") }

func (d *crashFS) sync(f *crashFile, kind opKind, name string) error {
	d.mu.Lock()
	began := len(d.journal)
	during := d.duringSync
	if f != nil {
		d.duringSync = nil
	}
	d.mu.Unlock()
	if f != nil && during != nil {
		during()
	}
	runtime.Gosched() // what others do meanwhile is not covered
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.failure(kind, name)
	d.journal = append(d.journal, crashOp{kind: kind, file: f, name: name, began: began, err: err})
	return err
}

func (f *crashFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.failure(opRead, f.name); err != nil {
		return 0, err
	}
	return bytes.NewReader(f.data).ReadAt(b, off)
}

func (f *crashFile) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.failure(opWrite, f.name)
	if err != nil {
		b = b[:len(b)/2]
	}
	f.data = writeAt(f.data, b, off)
	f.fs.journal = append(f.fs.journal, crashOp{kind: opWrite, file: f, name: f.name, off: off, data: bytes.Clone(b)})
	return len(b), err
}

func (f *crashFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.data)), f.fs.failure(opSize, f.name)
}

func (f *crashFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.failure(opTruncate, f.name); err != nil {
		return err
	}
	f.data = resize(f.data, size)
	f.fs.journal = append(f.fs.journal, crashOp{kind: opTruncate, file: f, name: f.name, off: size})
	return nil
}

func (f *crashFile) Sync() error { return f.fs.sync(f, opSync, f.name) }

// Uncache leaves what is on the disk, or on its way there: writes that a failed
// sync covered are gone.
func (f *crashFile) Uncache() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.failure(opUncache, f.name); err != nil {
		return err
	}
	lost := make(map[int]bool)
	var pending []int
	for i, op := range f.fs.journal {
		switch {
		case op.file != f:
		case op.kind == opWrite, op.kind == opTruncate:
			pending = append(pending, i)
		case op.kind == opSync:
			pending = slices.DeleteFunc(pending, func(i int) bool {
				if i < op.began && op.err != nil {
					lost[i] = true
				}
				return i < op.began
			})
		}
	}
	f.data = nil
	for i, op := range f.fs.journal {
		switch {
		case op.file != f || lost[i]:
		case op.kind == opWrite:
			f.data = writeAt(f.data, op.data, op.off)
		case op.kind == opTruncate:
			f.data = resize(f.data, op.off)
		case op.kind == opDamage && op.off < int64(len(f.data)):
			f.data[op.off] ^= 0xff
		}
	}
	return nil
}

func (f *crashFile) Close() error { return nil }

func resize(data []byte, size int64) []byte {
	if grow := size - int64(len(data)); grow > 0 {
		return append(data, make([]byte, grow)...)
	}
	return data[:size]
}

func writeAt(data, b []byte, off int64) []byte {
	data = resize(data, max(int64(len(data)), off+int64(len(b))))
	copy(data[off:], b)
	return data
}

// ack notes that the store called blocks durable.
func (d *crashFS) ack(blocks ...Block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.journal = append(d.journal, crashOp{kind: opAck, blocks: blocks})
}

// forget notes that blocks need not stay.
func (d *crashFS) forget(blocks ...Block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.journal = append(d.journal, crashOp{kind: opForget, blocks: blocks})
}

// damage flips a byte in the last record of b.
func (d *crashFS) damage(b Block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(d.names))) {
		f := d.names[name]
		i := bytes.LastIndex(f.data, b.CID().Hash())
		if i < 0 || !strings.HasSuffix(name, packSuffix) {
			continue
		}
		h, err := parseHeader(f.data[i-recordHeader:])
		if err != nil {
			panic(err)
		}
		off := int64(i - recordHeader + h.size() - 1)
		f.data[off] ^= 0xff
		d.journal = append(d.journal, crashOp{kind: opDamage, file: f, name: name, off: off, blocks: []Block{b}})
		return
	}
	panic("no such block")
}

// keep says what of the unsynced operations is on the disk after a power cut.
type keep struct {
	data   int    // chance of each piece of a write, in percent
	names  int    // chance of each creation, rename, removal and truncation
	sizes  int    // chance that a file has grown by a write whatever became of its data
	sector int    // pieces end at multiples of this; if 0, a random first part is kept
	seed   uint64 // of the chances
}

// image returns the files that a power cut before operation cut of the journal
// leaves. If certain, no operation before it was unsynced: k does not matter.
func (d *crashFS) image(cut int, k keep) (files map[string][]byte, certain bool) {
	certain = true
	durable := make([]bool, cut)
	pending := make(map[*crashFile][]int) // under nil those of the directory
	for i, op := range d.journal[:cut] {
		switch op.kind {
		case opCreate, opRename, opRemove:
			pending[nil] = append(pending[nil], i)
		case opWrite, opTruncate:
			pending[op.file] = append(pending[op.file], i)
		case opSync, opSyncDir:
			pending[op.file] = slices.DeleteFunc(pending[op.file], func(i int) bool {
				if i < op.began {
					durable[i] = op.err == nil
				}
				return i < op.began
			})
		}
	}

	r := rand.New(rand.NewPCG(k.seed, uint64(cut)))
	names := make(map[string]*crashFile)
	data := make(map[*crashFile][]byte)
	for i, op := range d.journal[:cut] {
		whole := durable[i] || r.IntN(100) < k.names
		certain = certain && (durable[i] || !op.kind.needsSync())
		switch op.kind {
		case opCreate:
			if whole {
				names[op.name] = op.file
			}
		case opRename:
			if whole {
				delete(names, op.name)
				names[op.to] = op.file
			}
		case opRemove:
			if whole {
				delete(names, op.name)
			}
		case opTruncate:
			if whole {
				data[op.file] = resize(data[op.file], op.off)
			}
		case opWrite:
			if durable[i] {
				data[op.file] = writeAt(data[op.file], op.data, op.off)
			} else {
				data[op.file] = k.tear(r, data[op.file], op.data, op.off)
			}
		case opDamage:
			if f := data[op.file]; op.off < int64(len(f)) {
				f[op.off] ^= 0xff
			}
		}
	}
	files = make(map[string][]byte)
	for name, f := range names {
		files[name] = data[f]
	}
	return files, certain
}

// tear writes the pieces of b that reach the disk.
func (k keep) tear(r *rand.Rand, data, b []byte, off int64) []byte {
	if r.IntN(100) < k.sizes {
		data = resize(data, max(int64(len(data)), off+int64(len(b))))
	}
	if k.sector == 0 {
		return writeAt(data, b[:r.IntN(len(b)+1)], off)
	}
	for len(b) > 0 {
		n := min(len(b), k.sector-int(off)%k.sector)
		if r.IntN(100) < k.data {
			data = writeAt(data, b[:n], off)
		}
		b, off = b[n:], off+int64(n)
	}
	return data
}

func (d *crashFS) Free() (int64, error) { return 1 << 40, d.check(opFree, "") }
