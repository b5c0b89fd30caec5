package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// fake answers every question with fixed values, or with err.
type fake struct {
	err   error
	block blockstore.Block

	gotAdd     AddRequest
	gotCAR     []byte
	gotFollow  FollowRequest
	gotFetch   FetchRequest
	gotMirrors MirrorsRequest
	gotCheck   CheckRequest
	gotRepair  RepairRequest
	gotTarget  string
	gotAddr    string
	gotTimeout time.Duration
}

func (f *fake) Add(_ context.Context, req AddRequest, progress func(Progress)) (AddResult, error) {
	f.gotAdd = req
	progress(Progress{Phase: "adding", Bytes: 1, TotalBytes: 10})
	progress(Progress{Phase: "adding", Bytes: 2, TotalBytes: 10}) // too soon to be passed on
	progress(Progress{Phase: "writing", Files: 3})
	return AddResult{Root: "root", Files: 3, URL: "http://root.ipfs.localhost/", TookMS: 7}, f.err
}

func (f *fake) Import(_ context.Context, car io.Reader, progress func(Progress)) (ImportResult, error) {
	if f.err != nil {
		return ImportResult{}, f.err // with the CAR unread
	}
	progress(Progress{Phase: "importing"})
	var err error
	f.gotCAR, err = io.ReadAll(car)
	return ImportResult{Roots: []string{"root"}, Blocks: 2}, err
}

func (f *fake) Follow(_ context.Context, req FollowRequest, progress func(Progress)) (FollowResult, error) {
	f.gotFollow = req
	progress(Progress{Phase: "fetching", Peers: 2})
	return FollowResult{Root: "root", Received: 11}, f.err
}

func (f *fake) Unfollow(_ context.Context, target string) error {
	f.gotTarget = target
	return f.err
}

func (f *fake) Fetch(_ context.Context, req FetchRequest, _ func(Progress)) (FetchResult, error) {
	f.gotFetch = req
	return FetchResult{CID: "cid", Root: "root"}, f.err
}

func (f *fake) Mirrors(_ context.Context, req MirrorsRequest, progress func(Progress)) (MirrorsResult, error) {
	f.gotMirrors = req
	progress(Progress{Phase: "hearing", Peers: 1})
	return MirrorsResult{Mirrors: []Mirror{{Peer: "p", Addrs: []string{"a"}, State: MirrorPartial, RTTMS: 1.5, Share: 0.25}}, Whole: true}, f.err
}

func (f *fake) Block(_ context.Context, _ cid.Cid, timeout time.Duration) (blockstore.Block, error) {
	f.gotTimeout = timeout
	return f.block, f.err
}

func (f *fake) GC(_ context.Context, progress func(Progress)) (GCResult, error) {
	progress(Progress{Phase: "marking", Blocks: 7})
	return GCResult{Blocks: 3, FreedBytes: 99}, f.err
}

func (f *fake) Check(_ context.Context, req CheckRequest, _ func(Progress)) (CheckResult, error) {
	f.gotCheck = req
	return CheckResult{Packs: 2, Damaged: 1, Damage: []string{"d"}}, f.err
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Peer: "me", Sites: []Site{{Target: "t", State: StateWhole}}, Limits: Limits{Up: 5}}, f.err
}

func (f *fake) Peers(context.Context) ([]Peer, error) {
	return []Peer{{Peer: "p", RTTMS: 1.5, Direction: "inbound"}}, f.err
}

func (f *fake) Connect(_ context.Context, addr string) (Peer, error) {
	f.gotAddr = addr
	return Peer{Peer: "p"}, f.err
}

func (f *fake) Repair(_ context.Context, req RepairRequest, _ func(Progress)) (RepairResult, error) {
	f.gotRepair = req
	return RepairResult{Packs: 2, Damaged: 1, Damage: []string{"d"}, Incomplete: []string{"r"}}, f.err
}

func (f *fake) ID(context.Context) (Identity, error) {
	return Identity{Peer: "me", Addrs: []string{"/ip4/127.0.0.1/tcp/1"}}, f.err
}

// serve runs a server for svc until the test ends, and returns a client of it,
// what ends its requests and then itself, and the path of its socket.
func serve(t *testing.T, svc Service) (c *Client, shutdown func(), path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), SocketName)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv := NewServer(svc, slog.New(slog.NewTextHandler(t.Output(), nil)))
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if c, err = Dial(path); err != nil {
		t.Fatal(err)
	}
	shutdown = sync.OnceFunc(func() {
		cancel()
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		c.Close()
		shutdown()
	})
	return c, shutdown, path
}

// equal fails the test if got is not want, or if err is set.
func equal(t *testing.T, got any, err error, want any) {
	t.Helper()
	if err != nil {
		t.Error(err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestClient(t *testing.T) {
	f := &fake{block: blockstore.Sum(cid.Raw, bytes.Repeat([]byte("x"), blockstore.MaxBlockSize))}
	c, _, _ := serve(t, f)
	ctx := t.Context()

	var progress []Progress
	add := AddRequest{Path: "/a <b>\u2028", Hidden: true, Preserve: true, Chunker: "fastcdc"}
	added, err := c.Add(ctx, add, func(p Progress) { progress = append(progress, p) })
	equal(t, added, err, AddResult{Root: "root", Files: 3, URL: "http://root.ipfs.localhost/", TookMS: 7})
	equal(t, f.gotAdd, nil, add)
	equal(t, progress, nil, []Progress{{Phase: "adding", Bytes: 1, TotalBytes: 10}, {Phase: "writing", Files: 3}})

	car := bytes.Repeat([]byte("car"), 1<<20)
	imported, err := c.Import(ctx, bytes.NewReader(car), nil)
	equal(t, imported, err, ImportResult{Roots: []string{"root"}, Blocks: 2})
	equal(t, len(f.gotCAR), nil, len(car))
	equal(t, bytes.Equal(f.gotCAR, car), nil, true)

	follow := FollowRequest{Target: "t", Wait: true, Timeout: time.Minute}
	followed, err := c.Follow(ctx, follow, nil)
	equal(t, followed, err, FollowResult{Root: "root", Received: 11})
	equal(t, f.gotFollow, nil, follow)

	checked, err := c.Check(ctx, CheckRequest{Data: true}, nil)
	equal(t, checked, err, CheckResult{Packs: 2, Damaged: 1, Damage: []string{"d"}})
	equal(t, f.gotCheck, nil, CheckRequest{Data: true})
	repaired, err := c.Repair(ctx, RepairRequest{Timeout: time.Second}, nil)
	equal(t, repaired, err, RepairResult{Packs: 2, Damaged: 1, Damage: []string{"d"}, Incomplete: []string{"r"}})
	equal(t, f.gotRepair, nil, RepairRequest{Timeout: time.Second})

	collected, err := c.GC(ctx, func(p Progress) { progress = append(progress, p) })
	equal(t, collected, err, GCResult{Blocks: 3, FreedBytes: 99})
	equal(t, progress[len(progress)-1], nil, Progress{Phase: "marking", Blocks: 7})

	equal(t, nil, c.Unfollow(ctx, "t"), nil)
	equal(t, f.gotTarget, nil, "t")

	fetch := FetchRequest{Target: "t/a", Timeout: time.Second}
	fetched, err := c.Fetch(ctx, fetch, nil)
	equal(t, fetched, err, FetchResult{CID: "cid", Root: "root"})
	equal(t, f.gotFetch, nil, fetch)

	ask := MirrorsRequest{Target: "t", Timeout: time.Second}
	mirrors, err := c.Mirrors(ctx, ask, func(p Progress) { progress = append(progress, p) })
	equal(t, mirrors, err, MirrorsResult{Mirrors: []Mirror{{Peer: "p", Addrs: []string{"a"}, State: MirrorPartial, RTTMS: 1.5, Share: 0.25}}, Whole: true})
	equal(t, f.gotMirrors, nil, ask)
	equal(t, progress[len(progress)-1], nil, Progress{Phase: "hearing", Peers: 1})

	block, err := c.Block(ctx, f.block.CID(), 90*time.Second)
	equal(t, block, err, f.block)
	equal(t, f.gotTimeout, nil, 90*time.Second)

	status, err := c.Status(ctx)
	equal(t, status, err, Status{Peer: "me", Sites: []Site{{Target: "t", State: StateWhole}}, Limits: Limits{Up: 5}})
	peers, err := c.Peers(ctx)
	equal(t, peers, err, []Peer{{Peer: "p", RTTMS: 1.5, Direction: "inbound"}})
	peer, err := c.Connect(ctx, "/ip4/127.0.0.1/tcp/1")
	equal(t, peer, err, Peer{Peer: "p"})
	equal(t, f.gotAddr, nil, "/ip4/127.0.0.1/tcp/1")
	id, err := c.ID(ctx)
	equal(t, id, err, Identity{Peer: "me", Addrs: []string{"/ip4/127.0.0.1/tcp/1"}})
}

// endless has bytes for ever.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// importing is a Service that tells how reading a CAR ended.
type importing struct {
	fake
	read chan error
}

func newImporting() *importing {
	return &importing{read: make(chan error, 1)}
}

func (s *importing) Import(_ context.Context, car io.Reader, progress func(Progress)) (ImportResult, error) {
	progress(Progress{Phase: "importing"})
	_, err := io.Copy(io.Discard, car)
	s.read <- err
	return ImportResult{}, err
}

// Progress comes while the CAR is being sent, and a CAR that cannot be read to its
// end is not taken for a whole one.
func TestImportSourceFails(t *testing.T) {
	svc := newImporting()
	c, _, _ := serve(t, svc)
	r, w := io.Pipe()
	broken := errors.New("broken")
	_, err := c.Import(t.Context(), r, func(Progress) { w.CloseWithError(broken) })
	if err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
	if err := <-svc.read; err == nil {
		t.Error("the server took the CAR for whole")
	}
}

func TestImportCancel(t *testing.T) {
	svc := newImporting()
	c, _, _ := serve(t, svc)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	_, err := c.Import(ctx, r, func(Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if err := <-svc.read; err == nil {
		t.Error("the server took the CAR for whole")
	}
}

// A client that holds back its CAR does not hold up a shutdown.
func TestImportShutdown(t *testing.T) {
	svc := newImporting()
	c, shutdown, _ := serve(t, svc)
	r, w := io.Pipe()
	defer w.Close()
	_, err := c.Import(t.Context(), r, func(Progress) { go shutdown() })
	if err == nil || err.Error() != errShutdown.Error() {
		t.Errorf("got %v, want %v", err, errShutdown)
	}
	shutdown()
}

// Every method passes every error on, with its sentinel and its text.
func TestClientErrors(t *testing.T) {
	f := &fake{}
	c, _, _ := serve(t, f)
	ctx := t.Context()
	methods := map[string]func() error{
		"Add":      func() error { _, err := c.Add(ctx, AddRequest{}, nil); return err },
		"Import":   func() error { _, err := c.Import(ctx, endless{}, nil); return err },
		"Follow":   func() error { _, err := c.Follow(ctx, FollowRequest{}, nil); return err },
		"Unfollow": func() error { return c.Unfollow(ctx, "t") },
		"Fetch":    func() error { _, err := c.Fetch(ctx, FetchRequest{}, nil); return err },
		"Mirrors":  func() error { _, err := c.Mirrors(ctx, MirrorsRequest{}, nil); return err },
		"Block":    func() error { _, err := c.Block(ctx, blockstore.Sum(cid.Raw, nil).CID(), 0); return err },
		"Check":    func() error { _, err := c.Check(ctx, CheckRequest{}, nil); return err },
		"Repair":   func() error { _, err := c.Repair(ctx, RepairRequest{}, nil); return err },
		"GC":       func() error { _, err := c.GC(ctx, nil); return err },
		"Status":   func() error { _, err := c.Status(ctx); return err },
		"Peers":    func() error { _, err := c.Peers(ctx); return err },
		"Connect":  func() error { _, err := c.Connect(ctx, ""); return err },
		"ID":       func() error { _, err := c.ID(ctx); return err },
	}
	sentinels := []error{ErrUsage, ErrQuota, ErrUnreachable}
	for _, sentinel := range append(sentinels, errors.New("disk on fire")) {
		f.err = fmt.Errorf("do it: %w: twice", sentinel)
		for name, method := range methods {
			err := method()
			if err == nil || err.Error() != f.err.Error() {
				t.Errorf("%s: got %v, want %v", name, err, f.err)
			}
			for _, s := range sentinels {
				if errors.Is(err, s) != (s == sentinel) {
					t.Errorf("%s: errors.Is(%v, %v) = %v", name, err, s, errors.Is(err, s))
				}
			}
		}
	}
}

// A block that is not the one asked for is refused.
func TestClientBlockMismatch(t *testing.T) {
	c, _, _ := serve(t, &fake{block: blockstore.Sum(cid.Raw, []byte("something else"))})
	_, err := c.Block(t.Context(), blockstore.Sum(cid.Raw, []byte("wanted")).CID(), 0)
	if !errors.Is(err, blockstore.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
}

// waiting is a Service whose Follow goes on until its context ends.
type waiting struct {
	fake
	ended chan struct{} // closed then
}

func (w *waiting) Follow(ctx context.Context, _ FollowRequest, progress func(Progress)) (FollowResult, error) {
	defer close(w.ended)
	progress(Progress{Phase: "fetching"})
	<-ctx.Done()
	return FollowResult{}, ctx.Err()
}

func TestCancel(t *testing.T) {
	w := &waiting{ended: make(chan struct{})}
	c, _, _ := serve(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Follow(ctx, FollowRequest{Wait: true}, func(Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	<-w.ended // the server noticed
}

func TestShutdown(t *testing.T) {
	w := &waiting{ended: make(chan struct{})}
	c, shutdown, _ := serve(t, w)
	_, err := c.Follow(t.Context(), FollowRequest{Wait: true}, func(Progress) { go shutdown() })
	if err == nil || err.Error() != errShutdown.Error() {
		t.Errorf("got %v, want %v", err, errShutdown)
	}
	<-w.ended
	shutdown() // waits for the one that runs
	if _, err := c.ID(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("after the shutdown: got %v, want ErrNoDaemon", err)
	}
}

// dying is a Service whose Follow ends the connection mid-answer, as a daemon
// that is killed does.
type dying struct{ fake }

func (*dying) Follow(_ context.Context, _ FollowRequest, progress func(Progress)) (FollowResult, error) {
	progress(Progress{Phase: "fetching"})
	panic(http.ErrAbortHandler)
}

func TestDaemonDies(t *testing.T) {
	c, _, _ := serve(t, &dying{})
	_, err := c.Follow(t.Context(), FollowRequest{Wait: true}, nil)
	if !errors.Is(err, errEnded) {
		t.Errorf("got %v, want %v", err, errEnded)
	}
}

// Requests that no Client makes.
func TestServerRefuses(t *testing.T) {
	_, _, path := serve(t, &fake{})
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialSocket(path) },
	}}
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		name, method, path, contentType, body string
		status                                int
		want                                  string
	}{
		{"form", "POST", pathAdd, "application/x-www-form-urlencoded", "{}", 400, "content type must be application/json"},
		{"no content type", "POST", pathAdd, "", "{}", 400, "content type must be application/json"},
		{"CAR as JSON", "POST", pathImport, typeJSON, "{}", 400, "content type must be application/vnd.ipld.car"},
		{"charset", "POST", pathAdd, "application/json; charset=utf-8", "{}", 200, `"result"`},
		{"empty", "POST", pathAdd, typeJSON, "", 400, "EOF"},
		{"unknown field", "POST", pathAdd, typeJSON, `{"paht":"/"}`, 400, "paht"},
		{"two values", "POST", pathAdd, typeJSON, `{} {}`, 400, "more than one"},
		{"oversized", "POST", pathAdd, typeJSON, `{"path":"` + strings.Repeat("x", maxRequest) + `"}`, 413, "too large"},
		{"GET", "GET", pathAdd, "", "", 405, ""},
		{"unknown path", "GET", "/v1/nothing", "", "", 404, ""},
		{"no CID", "GET", pathBlock + "?cid=x&timeout=1s", "", "", 400, "cid"},
		{"no timeout", "GET", pathBlock + "?cid=bafkqaaa", "", "", 400, "timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, "http://pollux"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.contentType != "" {
				req.Header.Set("Content-Type", tt.contentType)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %s, %s; want %d with %q", resp.Status, body, tt.status, tt.want)
			}
		})
	}
}
