package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// Client is a Service that asks a daemon. Its methods may be called from many
// goroutines at once.
type Client struct {
	http *http.Client
}

var _ Service = (*Client)(nil)

// Dial returns a client for the daemon that listens on the socket at path. It
// fails with ErrNoDaemon if there is none.
func Dial(path string) (*Client, error) {
	conn, err := dialSocket(path)
	if err != nil {
		return nil, err
	}
	conn.Close() // it showed that somebody listens; HTTP opens its own
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:         func(context.Context, string, string) (net.Conn, error) { return dialSocket(path) },
		MaxIdleConnsPerHost: 16, // blocks are asked for many at a time
	}}}, nil
}

// Close frees the client's connections. Methods must not be called any more.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Add implements Service.
func (c *Client) Add(ctx context.Context, req AddRequest, progress func(Progress)) (AddResult, error) {
	return post[AddResult](ctx, c, pathAdd, req, progress)
}

// Import implements Service.
func (c *Client) Import(ctx context.Context, car io.Reader, progress func(Progress)) (ImportResult, error) {
	src := &source{r: car}
	res, err := call[ImportResult](ctx, c, http.MethodPost, pathImport, typeCAR, src, progress)
	if failed := src.failure(); err != nil && failed != nil && ctx.Err() == nil {
		err = failed // the rest followed from it
	}
	return res, err
}

// source remembers why it could not be read.
type source struct {
	r io.Reader

	mu  sync.Mutex // HTTP reads in a goroutine of its own
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Follow implements Service.
func (c *Client) Follow(ctx context.Context, req FollowRequest, progress func(Progress)) (FollowResult, error) {
	return post[FollowResult](ctx, c, pathFollow, req, progress)
}

// Unfollow implements Service.
func (c *Client) Unfollow(ctx context.Context, target string) error {
	_, err := post[nothing](ctx, c, pathUnfollow, unfollowRequest{Target: target}, nil)
	return err
}

// Fetch implements Service.
func (c *Client) Fetch(ctx context.Context, req FetchRequest, progress func(Progress)) (FetchResult, error) {
	return post[FetchResult](ctx, c, pathFetch, req, progress)
}

// Mirrors implements Service.
func (c *Client) Mirrors(ctx context.Context, req MirrorsRequest, progress func(Progress)) (MirrorsResult, error) {
	return post[MirrorsResult](ctx, c, pathMirrors, req, progress)
}

// Block implements Service. It checks the block again on arrival.
func (c *Client) Block(ctx context.Context, id cid.Cid, timeout time.Duration) (blockstore.Block, error) {
	query := url.Values{"cid": {id.String()}, "timeout": {timeout.String()}}
	resp, err := c.do(ctx, http.MethodGet, pathBlock+"?"+query.Encode(), "", nil)
	if err != nil {
		return blockstore.Block{}, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != typeBlock {
		var none nothing
		if err := readEvents(resp.Body, nil, &none); err != nil {
			return blockstore.Block{}, err
		}
		return blockstore.Block{}, errMalformed
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, blockstore.MaxBlockSize+1))
	if err != nil {
		return blockstore.Block{}, fmt.Errorf("read block %s from the daemon: %w", id, err)
	}
	return blockstore.NewBlock(id, data)
}

// GC implements Service.
func (c *Client) GC(ctx context.Context, progress func(Progress)) (GCResult, error) {
	return post[GCResult](ctx, c, pathGC, nothing{}, progress)
}

// Check implements Service.
func (c *Client) Check(ctx context.Context, req CheckRequest, progress func(Progress)) (CheckResult, error) {
	return post[CheckResult](ctx, c, pathCheck, req, progress)
}

// Repair implements Service.
func (c *Client) Repair(ctx context.Context, req RepairRequest, progress func(Progress)) (RepairResult, error) {
	return post[RepairResult](ctx, c, pathRepair, req, progress)
}

// Status implements Service.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, pathStatus, "", nil, nil)
}

// Peers implements Service.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return call[[]Peer](ctx, c, http.MethodGet, pathPeers, "", nil, nil)
}

// Connect implements Service.
func (c *Client) Connect(ctx context.Context, addr string) (Peer, error) {
	return post[Peer](ctx, c, pathConnect, connectRequest{Addr: addr}, nil)
}

// ID implements Service.
func (c *Client) ID(ctx context.Context) (Identity, error) {
	return call[Identity](ctx, c, http.MethodGet, pathID, "", nil, nil)
}

func post[Res any](ctx context.Context, c *Client, path string, req any, progress func(Progress)) (Res, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return *new(Res), err
	}
	return call[Res](ctx, c, http.MethodPost, path, typeJSON, bytes.NewReader(body), progress)
}

// call sends a request and reads the event stream that answers it.
func call[Res any](ctx context.Context, c *Client, method, path, contentType string, body io.Reader, progress func(Progress)) (res Res, err error) {
	resp, err := c.do(ctx, method, path, contentType, body)
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	err = readEvents(resp.Body, progress, &res)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err() // the connection failed because of that
	}
	return res, err
}

// do sends a request. The response's body is the caller's to close.
func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://pollux"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, which means nothing to users
		}
		if errors.Is(err, io.EOF) {
			err = errEnded
		}
		return nil, err
	}
	return resp, nil
}
