package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/transport/exchange"
)

const (
	// Mirroring that failed for another reason than absent peers, such as a full
	// disk, is tried again after pauses between these.
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
)

// mirror is the work of making one followed site whole.
type mirror struct {
	root cid.Cid
	stop context.CancelFunc
	done chan struct{} // closed when the site is whole, or the work was stopped

	tally exchange.Tally

	mu       sync.Mutex // guards the fields below
	progress exchange.Progress
	failed   error    // of the last attempt, for status; nil again when the next one brings something
	attempt  *attempt // under way, or the next one
	site     site     // the result, once done
}

// attempt is one try of a mirror. Its outcome stays its own: whoever waits for it may look
// when the next one is under way.
type attempt struct {
	failed chan struct{} // closed when it has failed
	err    error         // to be read after failed
}

func newMirror(root cid.Cid, stop context.CancelFunc) *mirror {
	return &mirror{root: root, stop: stop, done: make(chan struct{}), attempt: newAttempt()}
}

func newAttempt() *attempt { return &attempt{failed: make(chan struct{})} }

// fail ends the attempt that is under way.
func (m *mirror) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = err
	m.progress.Peers = 0
	m.attempt.err = err
	close(m.attempt.failed)
	m.attempt = newAttempt()
}

// show notes the progress of an attempt before which so many bytes had been received.
func (m *mirror) show(p exchange.Progress, before int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.Received > before {
		m.failed = nil
	}
	m.progress = p
}

// startMirror returns the mirroring of a site under way, or begins it.
func (n *Node) startMirror(root cid.Cid) *mirror {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m, ok := n.mirrors[root]; ok {
		return m
	}
	ctx, stop := context.WithCancel(n.ctx)
	m := newMirror(root, stop)
	n.mirrors[root] = m
	n.startWork(func() {
		defer stop()
		n.runMirror(ctx, m)
		n.mu.Lock()
		delete(n.mirrors, root)
		n.mu.Unlock()
		close(m.done)
		// It may have lost a block since, and whoever noticed was told of this mirror.
		if s, ok := n.sites.find(root); ok && !s.Whole && ctx.Err() == nil {
			n.startMirror(root)
		}
	})
	return m
}

// runMirror fetches until the site is whole or ctx ends.
func (n *Node) runMirror(ctx context.Context, m *mirror) {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		err := n.tryMirror(ctx, m)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.log.Warn("mirroring failed, will try again", "root", m.root, "err", err, "after", pause)
		m.fail(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (n *Node) tryMirror(ctx context.Context, m *mirror) error {
	net, err := n.network()
	if err != nil {
		return err
	}
	before := m.tally.Received()
	err = n.fetchFrom(ctx, net, exchange.Request{Root: m.root, Tally: &m.tally, Progress: func(p exchange.Progress) {
		m.show(p, before)
	}})
	if err != nil {
		return err
	}
	s, err := n.measure(ctx, m.root)
	if err != nil {
		return err
	}
	// Unfollowed meanwhile: the blocks are there, but the site is not to come back.
	old, ok := n.sites.find(m.root)
	if !ok {
		return nil
	}
	s.Path = old.Path
	if err := n.sites.put(s); err != nil {
		return err
	}
	m.mu.Lock()
	m.site = s
	m.mu.Unlock()
	n.log.Info("site is whole", "root", m.root, "blocks", s.Blocks, "bytes", s.Bytes)
	n.background("announce", m.root, func(ctx context.Context) error { return n.announce(ctx, m.root) })
	n.background("drop quarantine", m.root, n.dropQuarantine)
	return nil
}

// wait returns when m's site is whole, or, with an error, when an attempt failed, when
// nothing has arrived for timeout (unless that is 0) or when ctx ends. The work goes on
// all the same.
func (n *Node) wait(ctx context.Context, m *mirror, timeout time.Duration, show func(exchange.Progress)) (site, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last int
	lastNew := time.Now()
	m.mu.Lock()
	attempt := m.attempt
	m.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return site{}, ctx.Err()
		case <-attempt.failed:
			return site{}, attempt.err
		case <-m.done:
			m.mu.Lock()
			defer m.mu.Unlock()
			if !m.site.Root.Defined() {
				return site{}, fmt.Errorf("mirroring of %s was stopped", m.root)
			}
			show(m.progress)
			return m.site, nil
		case now := <-tick.C:
			m.mu.Lock()
			p, failed := m.progress, m.failed
			m.mu.Unlock()
			show(p)
			if p.Blocks > last {
				last, lastNew = p.Blocks, now
			}
			if timeout > 0 && now.Sub(lastNew) > timeout {
				if failed != nil {
					return site{}, failed
				}
				return site{}, unreachable(n.online(), &exchange.UnreachableError{
					Missing: max(p.Known-p.Blocks, 1), Waited: timeout,
					Providers: p.Providers, Asked: p.Asked,
				})
			}
		}
	}
}
