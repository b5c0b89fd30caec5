package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/node/api"
)

const (
	// scrubPeriod is the time in which every block is read back from the disk.
	scrubPeriod = 30 * 24 * time.Hour
	// healRetry is how long damage waits that could not be dealt with, for want of
	// disk space for instance.
	healRetry = 10 * time.Minute
)

// Repair implements api.Service.
func (n *Node) Repair(ctx context.Context, req api.RepairRequest, progress func(api.Progress)) (api.RepairResult, error) {
	start := time.Now()
	out := api.RepairResult{Damage: []string{}, Incomplete: []string{}}
	res, err := n.store.Repair(ctx, true, collect(&out.Damage, &out.Damaged), checking(progress))
	out.Packs, out.Blocks, out.Bytes = int64(res.Checked.Packs), int64(res.Checked.Blocks), res.Checked.Bytes
	out.Restored = int64(res.Restored)
	if err != nil {
		return out, diskError(err)
	}
	for _, s := range n.sites.all() {
		missing, err := n.missing(ctx, s.Root)
		if err != nil {
			return out, err
		}
		if missing == 0 {
			continue
		}
		received, err := n.complete(ctx, s.Root, req.Timeout, progress)
		out.Received += received
		if err != nil && !errors.Is(err, api.ErrUnreachable) {
			return out, err
		}
		if missing, err = n.missing(ctx, s.Root); err != nil {
			return out, err
		}
		if missing > 0 {
			out.Incomplete = append(out.Incomplete, s.Root.String())
		}
	}
	if err := n.dropQuarantine(ctx); err != nil {
		return out, err
	}
	out.QuarantinedBytes = n.store.Stats().QuarantinedBytes
	out.TookMS = time.Since(start).Milliseconds()
	return out, nil
}

// complete fetches what is missing of a site, and returns how many bytes that took.
// In a daemon the site is mirrored on if it fails.
func (n *Node) complete(ctx context.Context, root cid.Cid, timeout time.Duration, progress func(api.Progress)) (int64, error) {
	m, err := n.restore(root)
	if m == nil {
		return 0, err
	}
	_, err = n.wait(ctx, m, timeout, fetching(progress))
	return m.tally.Received(), err
}

// missing returns how many blocks of a site are known not to be held. There may be
// more below those.
func (n *Node) missing(ctx context.Context, root cid.Cid) (int64, error) {
	var missing int64
	var seen blockstore.CIDSet
	for stack := []cid.Cid{root}; len(stack) > 0; {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if !seen.Add(c) {
			continue
		}
		if c.Type() == cid.Raw {
			held, err := n.store.Has(c)
			if err != nil {
				return 0, err
			}
			if !held {
				missing++
			}
			continue
		}
		links, err := n.links(ctx, c)
		if isMissing(err) {
			missing++
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, l := range links {
			stack = append(stack, l.CID)
		}
	}
	return missing, nil
}

// scrub reads every block back, again and again, until ctx ends.
func (n *Node) scrub(ctx context.Context) {
	if err := n.store.Scrub(ctx, scrubPeriod); ctx.Err() == nil {
		n.log.Error("the scrub ended", "err", err)
	}
}

// heal repairs what turns out to be damaged, on opening the store, when a reader
// meets it, or by a scrub, until ctx ends.
func (n *Node) heal(ctx context.Context) {
	// A process that ended in between may have left it.
	if err := n.dropQuarantine(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot delete damaged packs", "err", err)
	}
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.store.Damaged():
		case <-retry:
		}
		retry = nil
		if err := n.healNow(ctx); err != nil && ctx.Err() == nil {
			level := slog.LevelError
			if errors.Is(err, blockstore.ErrReadOnly) {
				level = slog.LevelDebug // which has been said
			}
			n.log.Log(ctx, level, "damage is not repaired yet, will try again", "err", err, "after", healRetry)
			retry = time.After(healRetry)
		}
	}
}

// healNow takes damaged packs out of use, and has what is missing of sites fetched.
func (n *Node) healNow(ctx context.Context) error {
	res, err := n.store.Repair(ctx, false, func(err error) { n.log.Warn("damage", "err", err) }, nil)
	if err != nil {
		return err
	}
	n.log.Info("damaged packs are in quarantine", "packs", res.Packs, "lost", res.Lost, "restored", res.Restored)
	if err := n.reannounce(ctx); err != nil { // which starts mirrors of sites that are not whole
		return err
	}
	return n.dropQuarantine(ctx)
}

// dropQuarantine deletes what is in quarantine now if no site misses anything.
func (n *Node) dropQuarantine(ctx context.Context) error {
	packs := n.store.Quarantined() // before the look at the sites: what comes later stays
	if len(packs) == 0 {
		return nil
	}
	for _, s := range n.sites.all() {
		if missing, err := n.missing(ctx, s.Root); missing > 0 || err != nil {
			return err
		}
	}
	return n.store.DropQuarantine(packs)
}

// collect returns a function that counts errors and keeps the first maxDamage of them.
func collect(into *[]string, count *int64) func(error) {
	return func(err error) {
		if *count++; *count <= maxDamage {
			*into = append(*into, err.Error())
		}
	}
}

// checking translates progress.
func checking(show func(api.Progress)) func(blockstore.CheckProgress) {
	if show == nil {
		return nil
	}
	return func(p blockstore.CheckProgress) {
		show(api.Progress{Phase: "checking", Bytes: p.Bytes, TotalBytes: p.TotalBytes})
	}
}
