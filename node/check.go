package node

import (
	"context"
	"time"

	"pollux/blockstore"
	"pollux/node/api"
)

// maxDamage is how many things a check tells of one by one.
const maxDamage = 100

// Check implements api.Service.
func (n *Node) Check(ctx context.Context, req api.CheckRequest, progress func(api.Progress)) (api.CheckResult, error) {
	start := time.Now()
	out := api.CheckResult{Damage: []string{}}
	res, err := n.store.Check(ctx, req.Data, func(err error) {
		if out.Damaged++; out.Damaged <= maxDamage {
			out.Damage = append(out.Damage, err.Error())
		}
	}, func(p blockstore.CheckProgress) {
		if progress != nil {
			progress(api.Progress{Phase: "checking", Bytes: p.Bytes, TotalBytes: p.TotalBytes})
		}
	})
	out.Packs, out.Blocks, out.Bytes = int64(res.Packs), int64(res.Blocks), res.Bytes
	out.TookMS = time.Since(start).Milliseconds()
	return out, err
}
