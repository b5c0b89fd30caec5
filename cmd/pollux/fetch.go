package main

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/node/api"
)

// fetch makes what target names whole in the store, and shows progress.
func (a *app) fetch(ctx context.Context, svc service, target api.Target, timeout time.Duration) (api.FetchResult, error) {
	show, done := a.progress()
	defer done()
	return svc.Fetch(ctx, api.FetchRequest{Target: api.Raw(target.String()), Timeout: timeout}, show)
}

// blocks reads blocks through a service, each with a timeout. It is a dag.Getter.
type blocks struct {
	svc     service
	timeout time.Duration
}

func (b blocks) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	return b.svc.Block(ctx, c, b.timeout)
}
