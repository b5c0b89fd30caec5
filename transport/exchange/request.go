package exchange

import (
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// WriteStore is where a Fetch finds what is held already and puts what arrives.
type WriteStore interface {
	Store
	NewWriter() *blockstore.Writer
	Sync() error
}

// Candidate is a peer that may hold blocks of a DAG.
type Candidate struct {
	peer.AddrInfo
	Provider bool // it was announced as a provider, rather than merely connected
}

// Request says what to fetch.
type Request struct {
	// Store is fetched into. Required.
	Store WriteStore
	Root  cid.Cid
	// Bases are roots of DAGs that are held whole and may be earlier versions of Root, at
	// most maxBases. What one of them has at the same path, peers may send as a change
	// of that.
	Bases []cid.Cid
	// NodesOnly fetches the nodes, which number the DAG, and no leaves. Progress and
	// Result count nodes alone then, and nothing is offered to others meanwhile.
	NodesOnly bool
	// Size is what the DAG below Root takes according to its link, 0 if unknown.
	Size uint64
	// Once gives up when all candidates have been asked, and none of them brings anything.
	Once bool
	// Timeout ends the fetch when no block has arrived for so long; 0 is never.
	Timeout time.Duration
	// Tally, if not nil, counts this call's part beside those of others.
	Tally *Tally
	// Progress, if not nil, is called about ten times a second.
	Progress func(Progress)
}

// Progress tells how far a Fetch has come.
type Progress struct {
	Blocks     int   // blocks of the DAG met so far that are held
	Known      int   // blocks of the DAG met so far
	Bytes      int64 // bytes of the DAG held, as its links count them
	Held       int64 // of Bytes, those that nobody had to send
	TotalBytes int64 // bytes of the DAG, as its links count them; 0 until the root is there
	Received   int64 // by Request.Tally, or else for this Fetch
	Peers      int   // peers that are asked now and have sent blocks
	Providers  int   // peers that were announced as providers
	Asked      int   // peers that were asked
}

// Result is what a finished Fetch did.
type Result struct {
	Blocks   int   // distinct blocks of the DAG
	Bytes    int64 // bytes of the blocks that were fetched
	Received int64 // by Request.Tally, or else for this Fetch
	Peers    int   // the same
}

// UnreachableError reports blocks that no peer had within the time allowed.
type UnreachableError struct {
	Missing   int           // blocks known to be missing
	Waited    time.Duration // without a block arriving
	Providers int           // peers that were announced as providers
	Asked     int           // peers that were asked
	// Limit is how the resource manager of this node kept it from asking a peer; nil if it
	// did not.
	Limit error
}

func (e *UnreachableError) Error() string {
	s := fmt.Sprintf("nothing arrived for %v; blocks missing: %d, providers found: %d, peers asked: %d",
		e.Waited, e.Missing, e.Providers, e.Asked)
	if e.Limit != nil {
		s += fmt.Sprintf("; this node's own limits keep it from asking (%v): fetch fewer sites at a time", e.Limit)
	}
	return s
}
