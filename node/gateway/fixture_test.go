package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"pollux/blockstore"
)

// memory is a Getter over blocks in memory, and the DAG service that fills it.
type memory struct {
	ipld.DAGService
	mu     sync.Mutex
	blocks map[cid.Cid]blockstore.Block
	fail   map[cid.Cid]error // Get fails so
	hang   map[cid.Cid]bool  // Get waits for the end of its context
	hangs  chan struct{}     // has one for each Get that does
	asked  map[cid.Cid]int
}

func newMemory() *memory {
	return &memory{
		DAGService: mdtest.Mock(),
		blocks:     map[cid.Cid]blockstore.Block{},
		fail:       map[cid.Cid]error{},
		hang:       map[cid.Cid]bool{},
		hangs:      make(chan struct{}, 64),
		asked:      map[cid.Cid]int{},
	}
}

// change makes changes that no Get sees in part: boxo leaves some behind.
func (m *memory) change(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

func (m *memory) block(c cid.Cid) (b blockstore.Block) {
	m.change(func() { b = m.blocks[c] })
	return b
}

// view is the side of a memory that the gateway sees: both have a Get.
type view struct{ *memory }

func (v view) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	m := v.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[c]++
	if m.hang[c] {
		m.mu.Unlock()
		m.hangs <- struct{}{}
		<-ctx.Done()
		m.mu.Lock()
		return blockstore.Block{}, ctx.Err()
	}
	if err := m.fail[c]; err != nil {
		return blockstore.Block{}, err
	}
	b, ok := m.blocks[c]
	if !ok {
		return blockstore.Block{}, fmt.Errorf("%s: %w", c, blockstore.ErrNotFound)
	}
	return b, nil
}

func (m *memory) Add(ctx context.Context, n ipld.Node) error { return m.AddMany(ctx, []ipld.Node{n}) }

func (m *memory) AddMany(ctx context.Context, nodes []ipld.Node) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range nodes {
		b, err := blockstore.NewBlock(n.Cid(), n.RawData())
		if err != nil {
			return err
		}
		m.blocks[n.Cid()] = b
	}
	return m.DAGService.AddMany(ctx, nodes)
}

const chunkSize = 64 << 10

// file adds a file: one raw block, or a DAG of them.
func (m *memory) file(t testing.TB, data []byte) ipld.Node {
	t.Helper()
	params := helpers.DagBuilderParams{Dagserv: m, RawLeaves: true, Maxlinks: 4, CidBuilder: merkledag.V1CidPrefix()}
	db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(data), chunkSize))
	if err != nil {
		t.Fatal(err)
	}
	n, err := balanced.Layout(db)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tree adds a directory of files by slash-separated path; sharded says whether
// its directories are HAMTs.
func (m *memory) tree(t testing.TB, files map[string][]byte, sharded bool) ipld.Node {
	t.Helper()
	here, below := map[string][]byte{}, map[string]map[string][]byte{}
	for path, data := range files {
		name, rest, nested := strings.Cut(path, "/")
		if !nested {
			here[name] = data
			continue
		}
		if below[name] == nil {
			below[name] = map[string][]byte{}
		}
		below[name][rest] = data
	}
	var dir uio.Directory
	var err error
	if sharded {
		dir, err = uio.NewHAMTDirectory(m, 0, uio.WithCidBuilder(merkledag.V1CidPrefix()))
	} else {
		dir, err = uio.NewBasicDirectory(m, uio.WithCidBuilder(merkledag.V1CidPrefix()))
	}
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, n ipld.Node) {
		if err := dir.AddChild(t.Context(), name, n); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range here {
		add(name, m.file(t, data))
	}
	for name, files := range below {
		if name == "empty" {
			empty := unixfs.EmptyDirNode()
			empty.SetCidBuilder(merkledag.V1CidPrefix())
			if err := m.Add(t.Context(), empty); err != nil {
				t.Fatal(err)
			}
			add(name, empty)
			continue
		}
		add(name, m.tree(t, files, sharded))
	}
	n, err := dir.GetNode()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Add(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

func randomBytes(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(data)
	return data
}

// big is a file of two levels of links.
var big = randomBytes(10*chunkSize + 123)

var siteFiles = map[string][]byte{
	"index.html":           []byte("<!DOCTYPE html><title>front</title>"),
	"sub/index.html":       []byte("<!DOCTYPE html><title>sub</title>"),
	"plain/readme.txt":     []byte("no index here"),
	"empty/.":              nil,
	"empty.txt":            {},
	"digits.txt":           []byte("0123456789"),
	"page.html":            []byte("<p>page</p>"),
	"style.css":            []byte("p{}"),
	"app.js":               []byte("1"),
	"module.mjs":           []byte("2"),
	"logo.svg":             []byte("<svg xmlns='http://www.w3.org/2000/svg'/>"),
	"code.wasm":            []byte("\x00asm\x01\x00\x00\x00"),
	"data.json":            []byte("{}"),
	"sw.js":                []byte("self"),
	"extensionless":        []byte("<!DOCTYPE html><p>sniffed</p>"),
	"with space.txt":       []byte("space"),
	"100%.txt":             []byte("percent"),
	"käse/日本.txt":          []byte("unicode"),
	`back\slash.txt`:       []byte("backslash"),
	"a+b&c;d=e#f?g.txt":    []byte("reserved"),
	"big.bin":              big,
	"redirected/dir/x.txt": []byte("x"),
}

// site is a gateway with one site of siteFiles, on a real listener.
type site struct {
	*memory
	addr string // 127.0.0.1:port
	port string
	root cid.Cid
	host string // of the site's own origin, with port
}

func serve(t testing.TB, m *memory, cfg Config, root cid.Cid) *site {
	t.Helper()
	cfg.Blocks = view{m}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return serveHandler(t, m, h, root)
}

func serveHandler(t testing.TB, m *memory, h http.Handler, root cid.Cid) *site {
	srv := httptest.NewUnstartedServer(h)
	srv.Config = NewServer(h, discard)
	srv.Start()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	s := &site{memory: m, addr: addr, port: port, root: root}
	if root.Defined() {
		s.host = root.String() + ".ipfs.localhost:" + port
	}
	return s
}

func newSite(t testing.TB) *site {
	t.Helper()
	m := newMemory()
	root := m.tree(t, siteFiles, false)
	return serve(t, m, Config{}, root.Cid())
}

// answer is a response with as much of its body as came.
type answer struct {
	*http.Response
	body    []byte
	bodyErr error
}

// do sends one request byte for byte, as no client library would, and reads the
// answer. header lines are "Name: value".
func (s *site) do(t testing.TB, method, host, target string, header ...string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: " + host}, header...)
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Content-Length") }) {
		lines = append(lines, "Connection: close")
	}
	io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{Response: &http.Response{Header: http.Header{}}, bodyErr: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

// get asks the site's own origin.
func (s *site) get(t testing.TB, target string, header ...string) answer {
	t.Helper()
	return s.do(t, "GET", s.host, target, header...)
}

func (a answer) want(t testing.TB, status int, body string) {
	t.Helper()
	if a.StatusCode != status || a.bodyErr != nil || string(a.body) != body {
		t.Errorf("%d %.200q (%v), want %d %.200q", a.StatusCode, a.body, a.bodyErr, status, body)
	}
}

func (a answer) wantStatus(t testing.TB, status int) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("status %d %.300q, want %d", a.StatusCode, a.body, status)
	}
}

func (a answer) wantHeader(t testing.TB, name, value string) {
	t.Helper()
	if got := a.Header.Get(name); got != value {
		t.Errorf("%s: %q, want %q", name, got, value)
	}
}
