package node

import (
	"context"
	"time"

	"pollux/node/api"
)

// maxDamage is how many things a check tells of one by one.
const maxDamage = 100

// Check implements api.Service.
func (n *Node) Check(ctx context.Context, req api.CheckRequest, progress func(api.Progress)) (api.CheckResult, error) {
	start := time.Now()
	out := api.CheckResult{Damage: []string{}, Incomplete: []string{}}
	res, err := n.store.Check(ctx, req.Data, collect(&out.Damage, &out.Damaged), checking(progress))
	out.Packs, out.Blocks, out.Bytes = int64(res.Packs), int64(res.Blocks), res.Bytes
	if err != nil {
		return out, err
	}
	for _, s := range n.sites.all() {
		if !s.Whole {
			continue // it is being mirrored
		}
		missing, err := n.missing(ctx, s.Root)
		if err != nil {
			return out, err
		}
		if missing > 0 {
			out.Incomplete = append(out.Incomplete, s.Root.String())
		}
	}
	out.TookMS = time.Since(start).Milliseconds()
	return out, nil
}
