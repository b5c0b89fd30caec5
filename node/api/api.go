package api

import (
	"context"
	"io"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// Service is what a node can be asked. Its methods may be called from many
// goroutines at once and end early, with the context's error, when ctx does.
//
// A progress function may be nil. It is called from one goroutine at a time and
// never after the method has returned; it must not block for long.
//
// A timeout limits silence, not the whole: the method gives up with
// ErrUnreachable when nothing has arrived from the network for that long. Zero
// means no limit.
type Service interface {
	// Add imports a file or a directory tree and keeps it. When it returns, the
	// tree is durable.
	Add(ctx context.Context, req AddRequest, progress func(Progress)) (AddResult, error)
	// Import reads a CAR, version 1 or 2, stores its blocks and keeps what lies
	// below its roots. That has to be whole, or else none of it is kept. When it
	// returns, it is durable. If it fails, a Read of car may still be under way.
	Import(ctx context.Context, car io.Reader, progress func(Progress)) (ImportResult, error)
	// Follow mirrors a target from now on, across restarts. It returns at once,
	// or with req.Wait when the target is held whole.
	Follow(ctx context.Context, req FollowRequest, progress func(Progress)) (FollowResult, error)
	// Unfollow stops mirroring or keeping a target.
	Unfollow(ctx context.Context, target string) error
	// Fetch makes everything below a target whole in the local store, without
	// keeping it.
	Fetch(ctx context.Context, req FetchRequest, progress func(Progress)) (FetchResult, error)
	// Mirrors finds out which other nodes hold a target, the nearest first. Each is asked
	// for blocks by chance. It fetches the nodes of the target that the store lacks, and
	// keeps none. That nobody is found is no error.
	Mirrors(ctx context.Context, req MirrorsRequest, progress func(Progress)) (MirrorsResult, error)
	// Block returns one block, from the store or else from the network.
	Block(ctx context.Context, c cid.Cid, timeout time.Duration) (blockstore.Block, error)
	// GC removes the blocks that no site needs. It fails if another one runs.
	GC(ctx context.Context, progress func(Progress)) (GCResult, error)
	// Check looks for damage in the block store. It changes nothing.
	Check(ctx context.Context, req CheckRequest, progress func(Progress)) (CheckResult, error)
	// Repair takes damaged packs out of use, and fetches what is missing of sites.
	// Sites that stay incomplete are no error.
	Repair(ctx context.Context, req RepairRequest, progress func(Progress)) (RepairResult, error)
	// Status describes the node now.
	Status(ctx context.Context) (Status, error)
	// Peers lists the peers that the node is connected to.
	Peers(ctx context.Context) ([]Peer, error)
	// Connect dials addr, a multiaddr that ends in /p2p/PEER.
	Connect(ctx context.Context, addr string) (Peer, error)
	// ID names the node.
	ID(ctx context.Context) (Identity, error)
}

// AddRequest asks for the import of one path.
type AddRequest struct {
	Path         Raw    `json:"path"`          // absolute path of a file or a directory, on the node's machine
	Hidden       bool   `json:"hidden"`        // include files and directories whose name starts with a dot
	Rehash       bool   `json:"rehash"`        // read all files, those too that did not change since the last Add of Path
	AllowSecrets bool   `json:"allow_secrets"` // include what looks secret, such as private keys, instead of failing
	Preserve     bool   `json:"preserve"`      // store permissions and modification times
	Chunker      string `json:"chunker"`       // how files are cut, as dag.ParseChunker reads it; "" is size-1048576
}

// AddResult tells what an import made.
type AddResult struct {
	Root     string `json:"root"`      // CID of the tree
	Files    int64  `json:"files"`     // files in the tree, symbolic links included
	Blocks   int64  `json:"blocks"`    // distinct blocks in the tree
	Bytes    int64  `json:"bytes"`     // bytes of all files' contents
	NewBytes int64  `json:"new_bytes"` // bytes of the blocks that the store did not hold before
	Name     string `json:"name"`      // name that the tree was published under; "" if none
	Version  int64  `json:"version"`   // version of that name; 0 if none
	URL      string `json:"url"`       // where the local gateway serves it; "" if no gateway runs
	TookMS   int64  `json:"took_ms"`   // milliseconds
}

// ImportResult tells what a CAR held.
type ImportResult struct {
	Roots    []string `json:"roots"`     // CIDs that are kept
	Blocks   int64    `json:"blocks"`    // blocks in the CAR
	Bytes    int64    `json:"bytes"`     // bytes of those blocks
	NewBytes int64    `json:"new_bytes"` // bytes of the blocks that the store did not hold before
	TookMS   int64    `json:"took_ms"`   // milliseconds
}

// FollowRequest asks for a target to be mirrored.
type FollowRequest struct {
	Target  string        `json:"target"`     // what to mirror, without a path; see ParseTarget
	Wait    bool          `json:"wait"`       // return when it is whole
	Timeout time.Duration `json:"timeout_ns"` // longest silence while waiting
}

// FollowResult tells what is mirrored. Without FollowRequest.Wait, only Root and
// Version are filled in, as far as they are known.
type FollowResult struct {
	Root     string `json:"root"`     // CID of the tree
	Version  int64  `json:"version"`  // version of the followed name; 0 for a CID
	Blocks   int64  `json:"blocks"`   // distinct blocks in the tree
	Bytes    int64  `json:"bytes"`    // bytes of those blocks
	Received int64  `json:"received"` // bytes that peers sent for it, over all protocols that bring blocks
	Peers    int64  `json:"peers"`    // peers that sent some of it
	TookMS   int64  `json:"took_ms"`  // milliseconds
}

// FetchRequest asks for a target to be made available locally.
type FetchRequest struct {
	Target  Raw           `json:"target"`     // what to fetch; a path may follow; see ParseTarget
	Timeout time.Duration `json:"timeout_ns"` // longest silence
}

// FetchResult tells what was fetched.
type FetchResult struct {
	CID      string `json:"cid"`      // what the target's path led to
	Root     string `json:"root"`     // where that path started
	Blocks   int64  `json:"blocks"`   // distinct blocks below CID
	Bytes    int64  `json:"bytes"`    // bytes of those blocks
	Received int64  `json:"received"` // bytes that peers sent for it, over all protocols that bring blocks
	Peers    int64  `json:"peers"`    // peers that sent some of it
	TookMS   int64  `json:"took_ms"`  // milliseconds
}

// MirrorsRequest asks who holds a target.
type MirrorsRequest struct {
	Target  string        `json:"target"`     // without a path; see ParseTarget
	Timeout time.Duration `json:"timeout_ns"` // longest silence; who has not answered by then counts as unreachable
}

// MirrorsResult tells who holds a target.
type MirrorsResult struct {
	Mirrors []Mirror `json:"mirrors"`
	Whole   bool     `json:"whole"` // the node that was asked keeps all of it too; it is not in Mirrors
}

// The states of a Mirror.
const (
	MirrorFull        = "full"        // it says that it holds all, and brought all that it was asked for
	MirrorPartial     = "partial"     // it holds some, or did not bring what it says it holds
	MirrorUnreachable = "unreachable" // it was announced, but does not answer
)

// Mirror is another node that holds a target, or was announced to.
type Mirror struct {
	Peer    string   `json:"peer"`    // peer ID
	Addrs   []string `json:"addrs"`   // multiaddrs it can be dialled at, as far as known
	State   string   `json:"state"`   // one of the Mirror constants
	Version int64    `json:"version"` // of the name that it serves; 0 for a CID
	RTTMS   float64  `json:"rtt_ms"`  // round-trip time in milliseconds; 0 if it is unreachable
	Share   float64  `json:"share"`   // of the blocks that it holds, about: from 0 to 1
}

// GCResult tells what was removed.
type GCResult struct {
	Blocks     int64 `json:"blocks"`      // blocks that were removed
	FreedBytes int64 `json:"freed_bytes"` // bytes on disk
	TookMS     int64 `json:"took_ms"`     // milliseconds
}

// CheckRequest asks for a check of the block store.
type CheckRequest struct {
	Data bool `json:"data"` // read and hash every block, not only where it lies
}

// CheckResult tells what a check found.
type CheckResult struct {
	Packs   int64    `json:"packs"`
	Blocks  int64    `json:"blocks"`  // blocks that were looked at
	Bytes   int64    `json:"bytes"`   // bytes that were read
	Damaged int64    `json:"damaged"` // blocks that are damaged
	Damage  []string `json:"damage"`  // what is wrong, for people; at most 100
	// Incomplete are the roots of sites of which blocks are missing that were here once.
	Incomplete []string `json:"incomplete"`
	TookMS     int64    `json:"took_ms"` // milliseconds
}

// RepairRequest asks for a repair of the block store.
type RepairRequest struct {
	Timeout time.Duration `json:"timeout_ns"` // longest silence while a site is fetched
}

// RepairResult tells what a repair found and did.
type RepairResult struct {
	Packs      int64    `json:"packs"`
	Blocks     int64    `json:"blocks"`     // blocks that were looked at
	Bytes      int64    `json:"bytes"`      // bytes that were read
	Damaged    int64    `json:"damaged"`    // blocks that were damaged
	Damage     []string `json:"damage"`     // what was wrong, for people; at most 100
	Restored   int64    `json:"restored"`   // blocks that an earlier repair could not read, and this one could
	Received   int64    `json:"received"`   // bytes that peers sent, over all protocols that bring blocks
	Incomplete []string `json:"incomplete"` // roots of sites of which blocks are still missing
	// QuarantinedBytes are those of damaged packs that are kept because of Incomplete.
	QuarantinedBytes int64 `json:"quarantined_bytes"`
	TookMS           int64 `json:"took_ms"` // milliseconds
}

// Progress is how far a running request has come. Totals that are not known
// (yet) are 0.
type Progress struct {
	Phase       string `json:"phase"` // what is being done, in one lower-case word, such as "adding" or "fetching"
	Bytes       int64  `json:"bytes"`
	TotalBytes  int64  `json:"total_bytes"`
	HeldBytes   int64  `json:"held_bytes"` // of Bytes, those that were there before
	Blocks      int64  `json:"blocks"`
	TotalBlocks int64  `json:"total_blocks"`
	Files       int64  `json:"files"`
	Received    int64  `json:"received"` // bytes over the network
	Peers       int64  `json:"peers"`    // peers that are sending
}

// Status describes a node at one moment.
type Status struct {
	Peer         string         `json:"peer"`         // the node's peer ID
	Addrs        []string       `json:"addrs"`        // multiaddrs it can be dialled at; empty while offline
	Connections  int            `json:"connections"`  // open connections to peers
	Reachability string         `json:"reachability"` // "public", "private" or "unknown": whether strangers can dial it
	Sites        []Site         `json:"sites"`
	Store        StoreStatus    `json:"store"`
	Traffic      Traffic        `json:"traffic"`
	Announce     AnnounceStatus `json:"announce"`
	Limits       Limits         `json:"limits"`
}

// The states of a Site.
const (
	StateWhole    = "whole"    // every block is here
	StateFetching = "fetching" // blocks are missing and some peer has them
	StateWaiting  = "waiting"  // blocks are missing and no peer that has them is known
)

// Site is one tree or name that the node keeps or mirrors.
type Site struct {
	Target        string `json:"target"`         // as it was given, or the root of what was added
	Name          string `json:"name"`           // its name, or for an added tree the path it came from; "" if none
	Root          string `json:"root"`           // CID that readers are served now
	Version       int64  `json:"version"`        // 0 for a CID
	Blocks        int64  `json:"blocks"`         // distinct blocks known to be in it
	Bytes         int64  `json:"bytes"`          // bytes of those of them that are here
	MissingBlocks int64  `json:"missing_blocks"` // blocks known to be in it that are not here
	State         string `json:"state"`          // one of the State constants
	LagS          int64  `json:"lag_s"`          // seconds that Root has been out of date; 0 if it is the newest known
	Error         string `json:"error"`          // why fetching it failed last; "" if it did not, or goes on
}

// StoreStatus describes the local block store.
type StoreStatus struct {
	Blocks     int64 `json:"blocks"`
	Bytes      int64 `json:"bytes"`       // bytes of the blocks
	DiskBytes  int64 `json:"disk_bytes"`  // bytes that they take on disk
	QuotaBytes int64 `json:"quota_bytes"` // most DiskBytes allowed; 0 if there is no quota
	// QuarantinedBytes are those of DiskBytes that damaged packs take; see Service.Repair.
	QuarantinedBytes int64 `json:"quarantined_bytes"`
	// ReadOnly is why nothing can be written now; "" if it can.
	ReadOnly string `json:"read_only"`
}

// Traffic counts bytes over the network since the node came up, all protocols.
type Traffic struct {
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
}

// AnnounceStatus describes how the node tells the network what it holds.
type AnnounceStatus struct {
	Strategy  string `json:"strategy"`  // "all", "entities" or "roots"
	Keys      int64  `json:"keys"`      // CIDs that are kept announced
	Queued    int64  `json:"queued"`    // CIDs not announced for the first time yet; 0 also while nobody can be told
	Announced int64  `json:"announced"` // announcements since the start; a CID counts each time
}

// Limits are the most that the node takes of each resource; 0 means no limit.
type Limits struct {
	DiskBytes   int64 `json:"disk_bytes"`
	MemoryBytes int64 `json:"memory_bytes"` // for network buffers and streams
	Up          int64 `json:"up"`           // bytes per second
	Down        int64 `json:"down"`         // bytes per second
	Connections int64 `json:"connections"`
}

// Peer is a connected peer.
type Peer struct {
	Peer      string   `json:"peer"`      // peer ID
	Addrs     []string `json:"addrs"`     // multiaddrs of the open connections
	RTTMS     float64  `json:"rtt_ms"`    // smoothed round-trip time in milliseconds; 0 if not measured yet
	Direction string   `json:"direction"` // who dialled: "inbound" or "outbound"
	Agent     string   `json:"agent"`     // software it says it runs; untrusted text; "" if unknown
}

// Identity names a node.
type Identity struct {
	Peer  string   `json:"peer"`  // peer ID
	Addrs []string `json:"addrs"` // multiaddrs it can be dialled at; empty while offline
}
