package exchange

import (
	"context"
	"errors"
	"slices"

	"github.com/ipfs/go-cid"

	"pollux/dag"
)

const (
	// maxBases is how many DAGs are looked at for an earlier version of the one that is
	// fetched.
	maxBases = 64
	// maxRefused is how many bases that a provider lacks make room for another. Then it is the
	// first again, which others may hold.
	maxRefused = 2
)

// errOtherBase ends a fetch whose base the provider of nodes lacks, for another to be tried.
var errOtherBase = errors.New("another version that is held may be known to the provider")

// chooseBase returns that of the request's bases whose root has most names in common
// with the root that is fetched, or nothing if none has any. Those that were refused come
// last. It notes whether there is another with at least half of the names.
func (f *Fetch) chooseBase(links []dag.Link) cid.Cid {
	names := make(map[string]struct{}, len(links))
	for _, l := range links {
		if l.Name != "" {
			names[l.Name] = struct{}{}
		}
	}
	best, most := cid.Undef, 0
	var others int // that may be as good
	for _, c := range f.request.Bases[:min(len(f.request.Bases), maxBases)] {
		base, err := linksOf(context.Background(), f.request.Store, c)
		if err != nil || c.Equals(f.request.Root) {
			continue // it helps only if it is there
		}
		common := 0
		for _, l := range base {
			if _, ok := names[l.Name]; ok {
				common++
			}
		}
		if slices.ContainsFunc(f.refused, c.Equals) {
			continue
		}
		if 2*common >= len(names) {
			others++
		}
		if common > most {
			best, most = c, common
		}
	}
	if len(f.refused) > 0 && (2*most < len(names) || len(f.refused) > maxRefused) {
		return f.refused[0]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index.spare = others > 1 || len(f.refused) > 0
	return best
}

// checkBase ends the fetch, for another base to be tried, if s, which is asked for nodes, has
// answered that it lacks the one that was named, and nobody has said yet to hold that. The caller
// holds mu.
func (f *Fetch) checkBase(s *session) {
	x := &f.index
	if s.opening > 0 || !s.opened {
		return // what it answered is about the base before
	}
	switch {
	case s.based:
		x.spare = false // it is good for something
	case x.spare && x.source == s && s.base.Defined() && s.base.Equals(f.order.base):
		f.finish(errOtherBase)
	}
}
