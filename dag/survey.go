package dag

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/ipfs/go-cid"
)

// MaxEntries is how many entries a tree may have that Extract writes. Trees of real
// sites stay below; what repeats a directory in itself soon does not.
const MaxEntries = 1 << 25

// spaceUnit is what file systems commonly give out at a time, in bytes.
const spaceUnit = 4 << 10

// totals is what a tree comes to, with each entry counted in every place where it
// occurs. Sums that are too large stay at the largest value.
type totals struct {
	entries int64
	files   int64
	bytes   int64 // of file content, as claimed
	space   int64 // about what all takes on a disk, in bytes
	depth   int   // directories inside each other below the top
}

func (t *totals) add(u totals) {
	t.entries = saturate(t.entries, u.entries)
	t.files = saturate(t.files, u.files)
	t.bytes = saturate(t.bytes, u.bytes)
	t.space = saturate(t.space, u.space)
}

// saturate returns the sum of two numbers that are not negative, at most MaxInt64.
func saturate(a, b int64) int64 { return a + min(b, math.MaxInt64-a) }

// spaceOf returns about what size bytes in one entry take on a disk. An empty one
// takes something too: an inode.
func spaceOf(size int64) int64 {
	return saturate(max(size, 1), spaceUnit-1) / spaceUnit * spaceUnit
}

// entryTotals returns the totals of e alone.
func entryTotals(e Entry) totals {
	t := totals{entries: 1, space: spaceOf(e.Size)}
	if e.Kind == KindFile {
		t.files, t.bytes = 1, e.Size
	}
	return t
}

// surveyDir is a directory whose entries are being added up.
type surveyDir struct {
	place
	cid cid.Cid
	sum totals
	// dirs are the directories in it that are not in sum yet, by name and CID. They
	// are bounded by the links in the blocks between here and the top.
	dirs []Link
}

// survey adds up the tree below e, an entry of at, and refuses what must not be
// written: names that are not safe, and more than the limits of Extract. Each distinct
// directory is listed once however often it occurs, so the time and memory that survey
// takes are bounded by the blocks that there really are.
func survey(ctx context.Context, get Getter, at *place, e Entry) (totals, error) {
	all := surveyDir{place: *at}
	if err := checkEntry(e); err != nil {
		return totals{}, fmt.Errorf("%q: %w", all.path(e.Name), err)
	}
	if err := all.count(e); err != nil {
		return totals{}, err
	}
	known := make(map[cid.Cid]totals)
	stack := []*surveyDir{&all}
	for {
		d := stack[len(stack)-1]
		if len(d.dirs) == 0 {
			if len(stack) == 1 {
				return d.sum, nil
			}
			known[d.cid] = d.sum
			stack = stack[:len(stack)-1]
			if err := stack[len(stack)-1].include(d.name, d.sum); err != nil {
				return totals{}, err
			}
			continue
		}
		next := d.dirs[len(d.dirs)-1]
		d.dirs = d.dirs[:len(d.dirs)-1]
		if sum, ok := known[next.CID]; ok {
			if err := d.include(next.Name, sum); err != nil {
				return totals{}, err
			}
			continue
		}
		below := &surveyDir{place: place{up: &d.place, name: next.Name, depth: d.depth + 1}, cid: next.CID}
		if below.depth > MaxTreeDepth {
			return totals{}, below.pathError("", ErrTooLarge)
		}
		for e, err := range List(ctx, get, next.CID) {
			if err != nil {
				return totals{}, fmt.Errorf("%q: %w", below.path(""), err)
			}
			if err := checkEntry(e); err != nil {
				return totals{}, fmt.Errorf("%q in %q: %w", e.Name, below.path(""), err)
			}
			if err := below.count(e); err != nil {
				return totals{}, err
			}
		}
		stack = append(stack, below)
	}
}

// count adds e, an entry of d, without what is below it.
func (d *surveyDir) count(e Entry) error {
	if e.Kind == KindDirectory {
		d.dirs = append(d.dirs, Link{Name: e.Name, CID: e.CID})
	}
	d.sum.add(entryTotals(e))
	return d.check(e.Name)
}

// include adds what is below a directory called name in d.
func (d *surveyDir) include(name string, sum totals) error {
	d.sum.add(sum)
	d.sum.depth = max(d.sum.depth, sum.depth+1)
	return d.check(name)
}

// check fails with ErrTooLarge if d is beyond the limits since name was added.
func (d *surveyDir) check(name string) error {
	if d.sum.entries > MaxEntries {
		return fmt.Errorf("%q: %w: more than %d entries", d.path(name), ErrTooLarge, MaxEntries)
	}
	if d.depth+d.sum.depth > MaxTreeDepth {
		return d.pathError(name, ErrTooLarge)
	}
	return nil
}

// checkEntry fails if e can be made on no file system.
func checkEntry(e Entry) error {
	if e.Name == "." || strings.ContainsAny(e.Name, "/\x00") || !filepath.IsLocal(e.Name) {
		return ErrUnsafeName
	}
	if e.Kind == KindSymlink && (e.Target == "" || strings.Contains(e.Target, "\x00")) {
		return fmt.Errorf("%w: symlink to %q", ErrMalformed, e.Target)
	}
	return nil
}
