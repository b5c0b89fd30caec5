package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	"github.com/ipfs/go-libdht/kad/key/bitstr"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

const (
	// provideBatch is how many keys are made durable with one sync, which bounds
	// the memory for it to about 2 MB.
	provideBatch = 4096
	// onlineCheck is the least time between two checks, each after a failure,
	// whether this node is still part of the DHT. A failure that no check follows is
	// repeated only minutes later, so in effect each is to have one: it is a lookup,
	// and what failed took several.
	onlineCheck = time.Millisecond
	// waitPoll is how often a node that is waiting for the DHT looks for the first
	// peer in the routing table, which gives no notice. It costs reading a counter.
	waitPoll = 100 * time.Millisecond
	// statsTimeout bounds the wait for the key store in close.
	statsTimeout = time.Second
)

// ErrClosed reports the use of a closed Routing.
var ErrClosed = errors.New("routing is closed")

// settledKey is in the datastore while no process has it open, if the last one
// ended with every key announced; its value is when, as time.Time encodes itself. See
// newAnnouncer.
var settledKey = datastore.NewKey("settled")

// announcer keeps the provider records of this node alive. Around kad-dht's
// sweeping provider, which groups keys by the part of the DHT that stores their
// records and refreshes one part after another, every 22 hours (records live 48),
// it adds what that lacks:
//
//   - a key that Provide accepted is announced, also after a crash, and also if
//     there is no network yet;
//   - a node that was alone starts announcing as soon as it meets a peer.
type announcer struct {
	log    *slog.Logger
	ds     datastore.Batching
	keys   keystore.Keystore
	sweep  *provider.SweepingProvider
	router *patientRouter

	// mu is held for reading while keys are added, so that close, which holds it for
	// writing, knows that none are added behind its back.
	mu     sync.RWMutex
	closed bool
}

// newAnnouncer takes up announcing where the last process left it.
//
// If that one ended with every key announced (settledKey), the schedule goes on:
// only those parts of the DHT are visited at once whose records are due. In any
// other case (the first start, a crash, an end in the middle of announcing) it is
// not known which keys others have records of, and all keys are announced
// anew, in one sweep. The sweeping provider does save its queue when it is closed,
// but not what it has taken from it, and nothing if it is killed.
func newAnnouncer(ctx context.Context, d *dht.IpfsDHT, ds datastore.Batching, log *slog.Logger) (*announcer, error) {
	at, err := ds.Get(ctx, settledKey)
	settled := err == nil && isPast(at)
	if errors.Is(err, datastore.ErrNotFound) {
		err = nil
	} else if err == nil {
		if err = ds.Delete(ctx, settledKey); err == nil {
			err = ds.Sync(ctx, settledKey)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("announcing: %w", err)
	}
	keys, err := keystore.NewKeystore(namespace.Wrap(ds, datastore.NewKey("keys")))
	if err != nil {
		return nil, fmt.Errorf("announcing: %w", err)
	}
	a := &announcer{log: log, ds: ds, keys: keys, router: &patientRouter{dht: d}}
	self := d.PeerID()
	a.sweep, err = provider.New(
		provider.WithHost(d.Host()),
		provider.WithRouter(a.router),
		provider.WithMessageSender(d.MessageSender()),
		provider.WithSelfAddrs(a.router.selfAddrs),
		// The node's own record store, so that it answers for its own keys when it
		// is asked: on a network smaller than the 20 nodes that hold each record,
		// this is what makes a key findable through nodes that joined since.
		provider.WithAddLocalRecord(func(ctx context.Context, key multihash.Multihash) error {
			return d.ProviderStore().AddProvider(ctx, key, peer.AddrInfo{ID: self})
		}),
		provider.WithKeystore(keys),
		provider.WithDatastore(namespace.Wrap(ds, datastore.NewKey("schedule"))),
		provider.WithResumeCycle(settled),
		provider.WithConnectivityCheckOnlineInterval(onlineCheck),
		provider.WithConnectivityCallbacks(
			func() { a.router.online.Store(true) },
			func() { a.router.online.Store(false) },
			func() {},
		),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("announcing: %w", err), keys.Close())
	}
	return a, nil
}

// isPast says whether an encoded time has passed. If it has not, the clock was set back,
// and what was announced in the future would count as announced until then.
func isPast(encoded []byte) bool {
	var at time.Time
	return at.UnmarshalBinary(encoded) == nil && !at.After(time.Now())
}

// Provide announces this node as a provider of keys, now and until StopProviding.
// When it returns nil the keys are durable; they are announced in the background,
// as soon as there is a network. A key that is being provided already costs a
// lookup in the datastore and no announcement. On an error some of the keys may
// have been taken; providing them again is safe.
func (a *announcer) Provide(ctx context.Context, keys ...multihash.Multihash) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return ErrClosed
	}
	for batch := range slices.Chunk(keys, provideBatch) {
		// StartProviding would store the keys too, but keep an error to itself.
		added, err := a.keys.Put(ctx, batch...)
		if err != nil {
			return fmt.Errorf("provide: %w", err)
		}
		if err := a.sweep.StartProviding(true, added...); err != nil {
			return fmt.Errorf("provide: %w", err)
		}
	}
	return nil
}

// StopProviding ends the announcing of keys, durably. Records that others hold
// expire by themselves, up to 48 hours later.
func (a *announcer) StopProviding(ctx context.Context, keys ...multihash.Multihash) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return ErrClosed
	}
	for batch := range slices.Chunk(keys, provideBatch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.sweep.StopProviding(batch...); err != nil {
			return fmt.Errorf("stop providing: %w", err)
		}
	}
	return nil
}

// Retain ends the announcing of every key that keep does not want, durably. Keys
// that are added at the same time may or may not be asked about.
func (a *announcer) Retain(ctx context.Context, keep func(multihash.Multihash) bool) error {
	// One part of the key space after another, so that not all keys are in memory
	// at once.
	for i := range 256 {
		keys, err := a.keys.Get(ctx, bitstr.Key(fmt.Sprintf("%08b", i)))
		if err != nil {
			return fmt.Errorf("announced keys: %w", err)
		}
		if err := a.StopProviding(ctx, slices.DeleteFunc(keys, keep)...); err != nil {
			return err
		}
	}
	return nil
}

// Stats says how far announcing has come.
type Stats struct {
	Keys      int       // keys that are being provided
	Queued    int       // of them: new ones that wait for their announcement or are in it
	Regions   int       // parts of the DHT whose records wait to be refreshed or are being refreshed
	Announced int       // announcements made since the start; a key counts each time it is announced
	Failed    int       // announcements since the start that nobody took; they are repeated
	Next      time.Time // when the next part of the DHT is due; zero if not known
}

// Stats returns the state of announcing. It can wait for a write of the datastore
// that is under way; ctx bounds that.
func (a *announcer) Stats(ctx context.Context) (Stats, error) {
	s, err := a.sweep.Stats(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("announcing: %w", err)
	}
	if s.Closed {
		return Stats{}, ErrClosed
	}
	if s.Schedule.Keys < 0 {
		return Stats{}, errors.New("announcing: the key store does not answer")
	}
	return Stats{
		Keys:      int(s.Schedule.Keys),
		Queued:    int(s.Queues.PendingKeyProvides) + s.Operations.Ongoing.KeyProvides,
		Regions:   int(s.Queues.PendingRegionReprovides) + s.Operations.Ongoing.RegionReprovides,
		Announced: int(s.Operations.Past.KeysProvided),
		Failed:    int(s.Operations.Past.KeysFailed),
		Next:      s.Schedule.NextReprovideAt,
	}, nil
}

// close stops announcing and notes whether it was done.
func (a *announcer) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true

	// Regions need not be done: which of them were refreshed, and when, is on disk.
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	stats, err := a.sweep.Stats(ctx)
	// A worker may have taken keys from the queue and not have counted them yet.
	settled := err == nil && stats.Queues.PendingKeyProvides == 0 && stats.Workers.ActiveBurst == 0

	err = errors.Join(a.sweep.Close(), a.keys.Close())
	if err == nil && settled {
		var now []byte
		if now, err = time.Now().MarshalBinary(); err == nil {
			err = a.ds.Put(context.Background(), settledKey, now)
		}
		if err == nil {
			err = a.ds.Sync(context.Background(), settledKey)
		}
	}
	if err != nil {
		return fmt.Errorf("announcing: %w", err)
	}
	return nil
}

// patientRouter stands between the sweeping provider and the DHT. The provider
// finds out whether it is online by looking up its own peer ID, and while that
// fails it looks again after pauses that grow to a minute; nothing can wake it
// earlier. So while the provider is offline, the router does not fail that
// lookup but waits until it can succeed.
//
// To be online takes an address that others can be told, too: without one the
// provider would throw keys away as if they were announced. On the public network
// a node behind a NAT gets its first public address (a relay's) only after a
// while.
type patientRouter struct {
	dht    *dht.IpfsDHT
	online atomic.Bool // the provider's own view

	mu    sync.Mutex
	addrs []ma.Multiaddr // the last that were not empty
}

// GetClosestPeers implements provider.KadClosestPeersRouter.
func (r *patientRouter) GetClosestPeers(ctx context.Context, key string) ([]peer.ID, error) {
	if key != string(r.dht.PeerID()) || r.online.Load() {
		return r.dht.GetClosestPeers(ctx, key)
	}
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	for {
		if r.dht.RoutingTable().Size() > 0 && len(r.selfAddrs()) > 0 {
			peers, err := r.dht.GetClosestPeers(ctx, key)
			if err == nil && len(peers) > 0 {
				return peers, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// selfAddrs returns the addresses to put into this node's provider records: the
// current ones, or those it had last if it has lost them for the moment.
func (r *patientRouter) selfAddrs() []ma.Multiaddr {
	addrs := r.dht.FilteredAddrs()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(addrs) > 0 {
		r.addrs = addrs
	}
	return r.addrs
}
