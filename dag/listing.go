package dag

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// listing is the entries of a directory that are to be imported.
//
// What the system tells of an entry takes 300 bytes. It is kept for directories that may
// become one block, which have some thousands of entries at most. Of one whose names
// alone show that it will be sharded, only those are kept, in parts that are looked at
// one after another: each becomes one shard below the top, or the one entry in its slot.
type listing struct {
	found []fs.DirEntry // in no order; nil if the directory will be sharded
	parts []nameList    // by the slot of the top shard, hamtFanout of them; nil if it may not be
}

// nameList is names, each behind its length as a varint.
type nameList []byte

func (l *nameList) add(name string) {
	need := binary.MaxVarintLen16 + len(name)
	if free := cap(*l) - len(*l); free < need {
		*l = append(make(nameList, 0, len(*l)+max(need, len(*l)/4, 256)), *l...) // append would double it
	}
	*l = binary.AppendUvarint(*l, uint64(len(name)))
	*l = append(*l, name...)
}

func (l nameList) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(l) > 0 {
			n, used := binary.Uvarint(l)
			end := used + int(n)
			if !yield(string(l[used:end])) {
				return
			}
			l = l[end:]
		}
	}
}

// minLinkSize returns how many bytes a link with the given name takes in a directory's
// block, at least: all that is not known yet is how many its Tsize takes.
func minLinkSize(name string) int {
	const cidSize = 1 + 1 + 2 + 32 // version, codec, hash function and length, digest
	body := tagSize + protowire.SizeBytes(cidSize) + tagSize + protowire.SizeBytes(len(name)) + tagSize + 1
	return tagSize + protowire.SizeBytes(body)
}

// list reads the directory r and returns the rules that hold in it. above are those that
// hold by files in the directories above.
func (im *importer) list(ctx context.Context, r *os.Root, above ignoring) (listing, ignoring, error) {
	l, hasRules, err := im.readNames(ctx, r)
	if err != nil {
		return listing{}, ignoring{}, err
	}
	rules := above
	if hasRules {
		patterns, err := readIgnoreFile(r)
		if err != nil {
			return listing{}, ignoring{}, fmt.Errorf("%s: %w", IgnoreFile, err)
		}
		rules.rules = &ignoreRules{above.rules, len(above.path), patterns}
	}
	if rules.rules != nil {
		err = l.filter(r, im.maxDirSize, rules)
	}
	return l, rules, err
}

// readNames reads the directory r, and says whether it has an ignore file. What that
// leaves out is in the listing.
func (im *importer) readNames(ctx context.Context, r *os.Root) (l listing, hasRules bool, err error) {
	f, err := r.Open(".")
	if err != nil {
		return listing{}, false, err
	}
	defer f.Close()
	wanted := func(name string) bool {
		if name == IgnoreFile {
			hasRules = true
			return false
		}
		return im.hidden || !strings.HasPrefix(name, ".")
	}
	for size := 0; size <= im.maxDirSize; {
		if err := ctx.Err(); err != nil {
			return listing{}, false, err
		}
		some, err := f.ReadDir(1024)
		for _, e := range some {
			if wanted(e.Name()) {
				l.found = append(l.found, e)
				size += minLinkSize(e.Name())
			}
		}
		if err == io.EOF {
			return l, hasRules, nil
		}
		if err != nil {
			return listing{}, false, err
		}
	}
	l.parts = make([]nameList, hamtFanout)
	for _, e := range l.found {
		l.addName(e.Name())
	}
	l.found = nil
	for {
		if err := ctx.Err(); err != nil {
			return listing{}, false, err
		}
		some, err := f.Readdirnames(1024)
		for _, name := range some {
			if wanted(name) {
				l.addName(name)
			}
		}
		if err == io.EOF {
			return l, hasRules, nil
		}
		if err != nil {
			return listing{}, false, err
		}
	}
}

func (l *listing) addName(name string) { l.parts[hashName(name)>>(hashBits-8)].add(name) }

// filter takes out of l what rules leave out. A directory that may become one block of
// maxSize bytes with what is left is one that is not in parts.
func (l *listing) filter(r *os.Root, maxSize int, rules ignoring) error {
	if l.parts == nil {
		l.found = slices.DeleteFunc(l.found, func(e fs.DirEntry) bool { return rules.ignores(e.Name(), e.IsDir()) })
		return nil
	}
	size := 0
	for i, names := range l.parts {
		var left nameList
		for name := range names.all() {
			ignored, err := ignoresIn(r, rules, name)
			if err != nil {
				return err
			}
			if !ignored {
				left.add(name)
				size += minLinkSize(name)
			}
		}
		l.parts[i] = left
	}
	if size > maxSize {
		return nil
	}
	parts := l.parts
	l.parts = nil
	for _, names := range parts {
		for name := range names.all() {
			info, err := r.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			l.found = append(l.found, fs.FileInfoToDirEntry(info))
		}
	}
	return nil
}

// ignoresIn says whether rules leave out the entry called name in r, which is looked at
// only if it matters whether it is a directory. One that is gone is left out.
func ignoresIn(r *os.Root, rules ignoring, name string) (bool, error) {
	ignored := rules.ignores(name, false)
	if rules.ignores(name, true) == ignored {
		return ignored, nil
	}
	info, err := r.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return rules.ignores(name, info.IsDir()), nil
}
