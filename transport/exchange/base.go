package exchange

import (
	"github.com/ipfs/go-cid"

	"pollux/dag"
)

// maxBases is how many DAGs are looked at for an earlier version of the one that is
// fetched.
const maxBases = 64

// chooseBase returns that of the request's bases whose root has most names in common
// with the root that is fetched, or nothing if none has any.
func (f *Fetch) chooseBase(links []dag.Link) cid.Cid {
	names := make(map[string]struct{}, len(links))
	for _, l := range links {
		if l.Name != "" {
			names[l.Name] = struct{}{}
		}
	}
	best, most := cid.Undef, 0
	for _, c := range f.request.Bases[:min(len(f.request.Bases), maxBases)] {
		base, err := f.load(c)
		if err != nil || c.Equals(f.request.Root) {
			continue // it helps only if it is there
		}
		common := 0
		for _, l := range base {
			if _, ok := names[l.Name]; ok {
				common++
			}
		}
		if common > most {
			best, most = c, common
		}
	}
	return best
}

// basesOf returns a function that finds, for the ith link of n, the block that stands in
// its place in the base of n: under the same name, as in a directory or a shard of one,
// or for links without names, such as those of a file, at the same place.
func (f *Fetch) basesOf(n node) func(i int, l dag.Link) cid.Cid {
	none := func(int, dag.Link) cid.Cid { return cid.Undef }
	if !n.base.Defined() {
		return none
	}
	old, err := f.load(n.base)
	if err != nil {
		return none
	}
	byName := make(map[string]cid.Cid, len(old))
	for _, l := range old {
		byName[l.Name] = l.CID
	}
	return func(i int, l dag.Link) cid.Cid {
		var base cid.Cid
		switch {
		case l.Name != "":
			base = byName[l.Name]
		case i < len(old) && old[i].Name == "":
			base = old[i].CID
		}
		if base.Equals(l.CID) || base.Defined() && base.ByteLen() > maxCID {
			return cid.Undef
		}
		return base
	}
}
