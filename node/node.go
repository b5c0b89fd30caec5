package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/gofrs/flock"
	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/transport"
	"pollux/transport/routing"
)

// What a repository holds.
const (
	lockFile  = "lock"
	keyFile   = "identity.key"
	blocksDir = "blocks"
	stateDir  = "routing"
)

// ErrInUse reports a repository that another process works on.
var ErrInUse = errors.New("in use by another process")

// Node is one mirror. Its methods may be called from many goroutines.
type Node struct {
	dir      string
	cfg      Config
	log      *slog.Logger
	lock     *flock.Flock
	readOnly error // why the repository cannot be changed, or nil
	store    *blockstore.Store
	sites    *siteList
	imports  *importCache

	ctx     context.Context // ends the node's background work
	cancel  context.CancelFunc
	work    sync.WaitGroup // background work; see goWork
	lookups *lookups

	announcing sync.Mutex // held while the announced keys are changed; before mu

	mu      sync.Mutex // guards the fields below
	net     *transport.Network
	running bool // Run is at work
	mirrors map[cid.Cid]*mirror
	gateway string // its URL; "" if none runs
}

// Open opens the repository in dir, which is created if there is none, and takes
// its lock. The node stays off the network until Run, or until a request needs
// it. It fails with ErrInUse if another process has the lock.
//
// In a repository that cannot be changed, such as one on a read-only file system, the
// node serves what is there. Its lock is a shared one then.
func Open(ctx context.Context, dir string, cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &Node{dir: dir, cfg: cfg, log: log, mirrors: make(map[cid.Cid]*mirror), lookups: newLookups()}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := n.takeLock(); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		if errors.Is(err, blockstore.ErrNewerFormat) {
			err = fmt.Errorf("%w; run that version, nothing was changed", err)
		}
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) open() (err error) {
	// The list comes first: if a newer version wrote it, the store is to stay untouched.
	if n.sites, err = openSites(n.dir, n.readOnly); err != nil {
		return err
	}
	blocks, err := blockstore.Dir(filepath.Join(n.dir, blocksDir))
	if err != nil {
		return err
	}
	if n.readOnly != nil {
		blocks = readOnlyFS{blocks, n.readOnly}
	}
	if n.store, err = blockstore.Open(blocks, n.log); err != nil {
		return err
	}
	n.store.SetLimits(blockstore.Limits{Bytes: int64(n.cfg.Disk), MinFree: int64(n.cfg.MinFree)})
	n.imports = &importCache{path: filepath.Join(n.dir, importCacheFile), log: n.log}
	return nil
}

// Close ends all background work, leaves the network and releases the
// repository. Everything that was acknowledged is on disk by then.
func (n *Node) Close() error {
	n.mu.Lock()
	n.cancel() // under mu, so that goWork starts nothing behind Wait's back
	n.mu.Unlock()
	n.work.Wait()
	n.mu.Lock()
	net := n.net
	n.net = nil
	n.mu.Unlock()
	var errs []error
	if net != nil {
		errs = append(errs, net.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(append(errs, n.lock.Close())...)
}

// goWork runs do in the background, unless the node is closing. Close waits for it.
func (n *Node) goWork(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.startWork(do)
}

// startWork is goWork for callers that hold mu.
func (n *Node) startWork(do func()) {
	if n.ctx.Err() == nil {
		n.work.Go(do)
	}
}

// network returns the node's network, and starts it if it is not up. Without Run
// it listens on ports of its own: the configured ones are the daemon's.
func (n *Node) network() (*transport.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.net != nil {
		return n.net, nil
	}
	if err := n.ctx.Err(); err != nil {
		return nil, err
	}
	cfg := transport.Config{
		KeyFile:     filepath.Join(n.dir, keyFile),
		StateDir:    filepath.Join(n.dir, stateDir),
		Network:     n.cfg.Network,
		Listen:      n.cfg.Listen,
		Bootstrap:   n.cfg.Bootstrap,
		Mode:        n.cfg.DHT.routing(),
		MDNS:        n.cfg.MDNS,
		PortMapping: n.cfg.PortMapping,
		ConnLow:     n.cfg.ConnectionsLow,
		ConnHigh:    n.cfg.ConnectionsHigh,
		UserAgent:   userAgent(),
		Store:       n.store,
		Logger:      n.log,
	}
	switch {
	case len(cfg.Bootstrap) == 0:
		cfg.Bootstrap = nil
	case cfg.Bootstrap[0] == None:
		cfg.Bootstrap = []string{}
	}
	if n.readOnly != nil {
		cfg.StateDir = "" // another process that only reads may have it
		if !n.hasKey() {
			cfg.KeyFile = ""
		}
	}
	if !n.running {
		cfg.Listen = []string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"}
		cfg.PortMapping = false
	}
	net, err := transport.Start(n.ctx, cfg)
	if err != nil {
		return nil, err
	}
	n.net = net
	return net, nil
}

// hasKey says whether the node has an identity yet.
func (n *Node) hasKey() bool {
	_, err := os.Stat(filepath.Join(n.dir, keyFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// online returns the network if it is up, else nil.
func (n *Node) online() *transport.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.net
}

func (m DHTMode) routing() routing.Mode {
	switch m {
	case DHTServer:
		return routing.Server
	case DHTClient:
		return routing.Client
	default:
		return routing.Auto
	}
}

// userAgent is what other nodes are told: "pollux/" and the module's version.
func userAgent() string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		version = info.Main.Version
	}
	return "pollux/" + version
}
