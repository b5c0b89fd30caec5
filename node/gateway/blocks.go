package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/ipfs/boxo/namesys"
	"github.com/ipfs/boxo/path"
	blockformat "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/node/api"
)

var (
	errReadOnly   = errors.New("the gateway writes no blocks")
	errNoNames    = errors.New("names are not resolved")
	errNoProgress = errors.New("nothing came within the time that a reader waits")
	errTooMany    = errors.New("too many blocks make up this answer; list the directory with pollux ls")
)

// blocks is a Getter as boxo wants it: a read-only blockstore.
type blocks struct {
	getter Getter
	log    *slog.Logger
}

// Get loads one block on account of the request that ctx belongs to.
//
// Its errors never count as ipld.ErrNotFound: boxo takes that for a path that
// does not exist, and would show a listing in place of an index.html whose block
// is merely out of reach.
func (b blocks) Get(ctx context.Context, c cid.Cid) (blockformat.Block, error) {
	l, ok := ctx.Value(loadsKey{}).(*loads)
	if !ok {
		l = new(loads)
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	blk, err := b.get(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if statusOf(err) == http.StatusInternalServerError {
			b.log.Error("gateway cannot read a block", "cid", c, "err", err)
		}
		err = fmt.Errorf("block %s: %w", c, err)
		l.fail(err)
		return nil, err
	}
	return blockformat.NewBlockWithCid(blk.Data(), c)
}

func (b blocks) get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if h, err := multihash.Decode(c.Hash()); err == nil && h.Code == multihash.IDENTITY {
		return blockstore.NewBlock(c, h.Digest) // the CID is the block
	}
	return b.getter.Get(ctx, c)
}

func (b blocks) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := b.Get(ctx, c)
	return err == nil, err
}

func (b blocks) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	blk, err := b.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	return len(blk.RawData()), nil
}

func (blocks) Put(context.Context, blockformat.Block) error       { return errReadOnly }
func (blocks) PutMany(context.Context, []blockformat.Block) error { return errReadOnly }
func (blocks) DeleteBlock(context.Context, cid.Cid) error         { return errReadOnly }
func (blocks) AllKeysChan(context.Context) (<-chan cid.Cid, error) {
	return nil, errReadOnly
}

// loads keeps account of the blocks that one request asks for. It outlives the
// request in goroutines that boxo leaves behind.
type loads struct {
	mu    sync.Mutex
	since int   // loads since the last byte to the reader
	err   error // the first load that failed
}

type loadsKey struct{}

func (l *loads) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since++; l.since > maxLoads && l.err == nil {
		l.err = errTooMany
	}
	if l.since > maxLoads {
		return errTooMany
	}
	return nil
}

func (l *loads) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// progress notes that a byte went to the reader.
func (l *loads) progress() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = 0
}

// failed returns the error of the first load that failed, or nil.
func (l *loads) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// statusOf returns the HTTP status for a block that could not be loaded.
func statusOf(err error) int {
	switch {
	case errors.Is(err, blockstore.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, errNoProgress), errors.Is(err, api.ErrUnreachable),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusGatewayTimeout
	case errors.Is(err, errTooMany):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// noNames resolves no names, so that boxo does not ask the DNS for any. A gateway
// uses nothing else of a NameSystem.
type noNames struct{ namesys.NameSystem }

func (noNames) Resolve(context.Context, path.Path, ...namesys.ResolveOption) (namesys.Result, error) {
	return namesys.Result{}, errNoNames
}
