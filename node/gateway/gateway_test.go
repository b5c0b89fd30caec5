package gateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

var discard = slog.New(slog.DiscardHandler)

const immutable = "public, max-age=29030400, immutable"

func TestContent(t *testing.T) {
	s := newSite(t)
	for _, tt := range []struct{ target, file, mime string }{
		{"/", "index.html", "text/html"},
		{"/index.html", "index.html", "text/html"},
		{"/sub/", "sub/index.html", "text/html"},
		{"/page.html", "page.html", "text/html"},
		{"/style.css", "style.css", "text/css; charset=utf-8"},
		{"/app.js", "app.js", "text/javascript; charset=utf-8"},
		{"/app.js?v=1&uri=https%3A%2F%2Fexample.org", "app.js", "text/javascript; charset=utf-8"},
		{"/module.mjs", "module.mjs", "text/javascript; charset=utf-8"},
		{"/logo.svg", "logo.svg", "image/svg+xml"},
		{"/code.wasm", "code.wasm", "application/wasm"},
		{"/data.json", "data.json", "application/json"},
		{"/digits.txt", "digits.txt", "text/plain; charset=utf-8"},
		{"/empty.txt", "empty.txt", "text/plain; charset=utf-8"},
		{"/extensionless", "extensionless", "text/html"},
		{"/with%20space.txt", "with space.txt", "text/plain; charset=utf-8"},
		{"/100%25.txt", "100%.txt", "text/plain; charset=utf-8"},
		{"/k%C3%A4se/%E6%97%A5%E6%9C%AC.txt", "käse/日本.txt", "text/plain; charset=utf-8"},
		{"/back%5Cslash.txt", `back\slash.txt`, "text/plain; charset=utf-8"},
		{"/a+b&c;d=e%23f%3Fg.txt", "a+b&c;d=e#f?g.txt", "text/plain; charset=utf-8"},
		{"/plain/./readme.txt", "plain/readme.txt", "text/plain; charset=utf-8"},
		{"/sw.js", "sw.js", "text/javascript; charset=utf-8"},
		{"/big.bin", "big.bin", "application/octet-stream"},
		{"http://" + s.host + "/digits.txt", "digits.txt", "text/plain; charset=utf-8"},
		{"http://" + s.host, "index.html", "text/html"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			want := siteFiles[tt.file]
			a := s.get(t, tt.target)
			a.want(t, 200, string(want))
			a.wantHeader(t, "Content-Type", tt.mime)
			a.wantHeader(t, "Cache-Control", immutable)
			a.wantHeader(t, "Content-Length", fmt.Sprint(len(want)))
			a.wantHeader(t, "Access-Control-Allow-Origin", "*")
			a.wantHeader(t, "Content-Security-Policy", "")
			etag := a.Header.Get("Etag")
			if etag == "" {
				t.Error("no Etag")
			}

			h := s.do(t, "HEAD", s.host, tt.target)
			h.want(t, 200, "")
			h.wantHeader(t, "Content-Length", fmt.Sprint(len(want)))
			h.wantHeader(t, "Content-Type", tt.mime)
			h.wantHeader(t, "Etag", etag)

			n := s.get(t, tt.target, "If-None-Match: "+etag)
			n.want(t, 304, "")
			n.wantHeader(t, "Etag", etag)
		})
	}
}

func TestDirectories(t *testing.T) {
	s := newSite(t)
	a := s.get(t, "/sub?a=b&c=d")
	a.wantStatus(t, 301)
	a.wantHeader(t, "Location", "/sub/?a=b&c=d")
	s.get(t, "/k%C3%A4se").wantHeader(t, "Location", "/k%C3%A4se/")

	a = s.get(t, "/plain/")
	a.wantStatus(t, 200)
	if !bytes.Contains(a.body, []byte("readme.txt")) {
		t.Errorf("listing lacks the file: %s", a.body)
	}
	s.get(t, "/empty/").wantStatus(t, 200)
	s.get(t, "/nothing").wantStatus(t, 404)
	s.get(t, "/page.html/below").wantStatus(t, 404)
}

func TestShardedDirectory(t *testing.T) {
	m := newMemory()
	files := map[string][]byte{"index.html": []byte("sharded")}
	for i := range 1000 {
		files[fmt.Sprintf("page-%d.html", i)] = fmt.Appendf(nil, "<p>%d</p>", i)
	}
	files["list/a.txt"], files["list/b.txt"] = []byte("a"), []byte("b")
	s := serve(t, m, Config{}, m.tree(t, files, true).Cid())
	s.get(t, "/").want(t, 200, "sharded")
	s.get(t, "/page-777.html").want(t, 200, "<p>777</p>")
	s.get(t, "/page-1000.html").wantStatus(t, 404)
	if a := s.get(t, "/list/"); a.StatusCode != 200 || !bytes.Contains(a.body, []byte("b.txt")) {
		t.Errorf("listing: %d %s", a.StatusCode, a.body)
	}
}

// TestHostilePaths asks one site for what lies outside of it.
func TestHostilePaths(t *testing.T) {
	s := newSite(t)
	other := s.tree(t, map[string][]byte{"evil.html": []byte("evil")}, false).Cid().String()
	for _, target := range []string{
		"/../" + other + "/evil.html",
		"/%2e%2e/" + other + "/evil.html",
		"/..%2F" + other + "%2Fevil.html",
		"/sub/..%2f..%2f" + other + "/evil.html",
		"/sub/..",
		"/a%00b",
		"//redirected/dir",
		"//evil.example/dir",
	} {
		s.get(t, target).wantStatus(t, 400)
		if !strings.HasPrefix(target, "//") {
			s.do(t, "GET", s.addr, "/ipfs/"+s.root.String()+target).wantStatus(t, 400)
		}
	}
	s.get(t, `/..\`+other+`\evil.html`).wantStatus(t, 404)
	s.get(t, "/..%5C"+other+"%5Cevil.html").wantStatus(t, 404)
	s.get(t, "/"+strings.Repeat("a/", 10000)).wantStatus(t, 404)
	s.get(t, "/"+strings.Repeat("a", 64<<10)).wantStatus(t, 431)
	for _, target := range []string{"/ipfs/", "/ipfs/x", "/ipfs/ipfs/" + s.root.String(), "/ipfs/..", "/ipfs/" + s.root.String() + "x"} {
		s.do(t, "GET", s.addr, target).wantStatus(t, 400)
	}
}

func TestHosts(t *testing.T) {
	s := newSite(t)
	root := s.root.String()
	for _, tt := range []struct {
		host, target string
		status       int
	}{
		{"localhost", "/", 200},
		{"LOCALHOST:" + s.port, "/", 200},
		{"127.0.0.1", "/", 200},
		{"[::1]:" + s.port, "/", 200},
		{"192.168.1.7:8080", "/ipfs/" + root + "/page.html", 200},
		{"[2001:db8::1]", "/ipfs/" + root + "/page.html", 200},
		{strings.ToUpper(s.host), "/page.html", 200},
		{root + ".IPFS.LocalHost", "/page.html", 200},
		{"evil.example", "/", 421},
		{"evil.example:" + s.port, "/ipfs/" + root + "/", 421},
		{"localhost.evil.example", "/", 421},
		{"localhost.", "/", 421},
		{"x.localhost", "/", 421},
		{"127.0.0.1.evil.example", "/", 421},
		{"::1", "/", 421},
		{"localhost:http", "/", 421},
		{"localhost:99999", "/", 421},
		{"www." + root + ".ipfs.localhost", "/", 400},
		{"x.ipfs.localhost", "/", 400},
		{".ipfs.localhost", "/", 400},
		{"k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r.ipns.localhost", "/", 501},
		{"example-org.ipns.localhost", "/", 501},
		{"localhost", "/ipns/example.org/", 501},
		{"127.0.0.1", "/ipns/example.org/", 501},
		{"127.0.0.1", "/favicon.ico", 404},
	} {
		t.Run(tt.host+tt.target, func(t *testing.T) {
			s.do(t, "GET", tt.host, tt.target).wantStatus(t, tt.status)
			// A proxy's header opens no other door, and closes none.
			for _, claim := range []string{"evil.example", "localhost", s.host} {
				s.do(t, "GET", tt.host, tt.target, "X-Forwarded-Host: "+claim, "X-Forwarded-Proto: https").wantStatus(t, tt.status)
			}
		})
	}
}

func TestOwnOrigin(t *testing.T) {
	s := newSite(t)
	const (
		safari = "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15"
		chrome = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
		load   = "Sec-Fetch-Mode: navigate"
	)
	v0 := cid.NewCidV0(multihash.Multihash(s.root.Hash())).String()
	path, own := "/ipfs/"+s.root.String(), "http://"+s.host
	long, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, host, target string
		header             []string
		status             int
		location           string
	}{
		{"curl", s.addr, path + "/page.html", nil, 200, ""},
		{"fetch", s.addr, path + "/page.html", []string{"Sec-Fetch-Mode: cors"}, 200, ""},
		{"document", s.addr, path + "/page.html", []string{load, chrome}, 307, own + "/page.html"},
		{"document at the root", s.addr, path, []string{load}, 307, own + "/"},
		{"document of CIDv0", s.addr, "/ipfs/" + v0 + "/", []string{load}, 307, own + "/"},
		{"query and escapes", s.addr, path + "/100%25.txt?a=b%20c", []string{load}, 307, own + "/100%25.txt?a=b%20c"},
		{"unicode", s.addr, path + "/k%C3%A4se/", []string{load}, 307, own + "/k%C3%A4se/"},
		{"IPv6", "[::1]:" + s.port, path + "/page.html", []string{load}, 307, own + "/page.html"},
		{"document in Safari", s.addr, path + "/page.html", []string{load, safari}, 200, ""},
		{"document on another machine", "192.168.1.7:" + s.port, path + "/page.html", []string{load}, 200, ""},
		{"localhost", "localhost:" + s.port, path + "/page.html", nil, 301, own + "/page.html"},
		{"localhost with CIDv0", "localhost:" + s.port, "/ipfs/" + v0 + "/page.html", nil, 301, own + "/page.html"},
		{"localhost in Safari", "localhost:" + s.port, path + "/page.html", []string{load, safari}, 200, ""},
		{"CID that is no label", s.addr, "/ipfs/" + cid.NewCidV1(cid.Raw, long).String(), []string{load}, 404, ""},
		{"no port", "localhost", path + "/", nil, 301, "http://" + s.root.String() + ".ipfs.localhost/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.do(t, "GET", tt.host, tt.target, tt.header...)
			a.wantStatus(t, tt.status)
			a.wantHeader(t, "Location", tt.location)
			if tt.status == 200 {
				a.wantHeader(t, "Content-Security-Policy", sandbox)
				if strings.Contains(sandbox, "allow-same-origin") {
					t.Error("the sandbox shares an origin")
				}
			}
		})
	}

	s.do(t, "GET", s.addr, path+"/sw.js", "Service-Worker: script", "Sec-Fetch-Mode: same-origin").wantStatus(t, 403)
	s.get(t, "/sw.js", "Service-Worker: script").want(t, 200, "self")
}

func TestMethods(t *testing.T) {
	s := newSite(t)
	for _, host := range []string{s.host, s.addr, "localhost"} {
		s.do(t, "POST", host, "/").wantStatus(t, 405)
		s.do(t, "PUT", host, "/").wantStatus(t, 405)
		s.do(t, "DELETE", host, "/").wantStatus(t, 405)
		s.do(t, "POST", host, "/", "Content-Length: 5", "Connection: close").wantStatus(t, 400)
		s.do(t, "GET", host, "/", "Content-Length: 5").wantStatus(t, 400)
	}
	s.do(t, "OPTIONS", s.addr, "/").wantStatus(t, 405)
	a := s.do(t, "OPTIONS", s.host, "/", "Origin: http://evil.example", "Access-Control-Request-Private-Network: true")
	a.wantStatus(t, 200)
	a.wantHeader(t, "Access-Control-Allow-Private-Network", "")
}

// TestTrustless asks for what clients verify by themselves.
func TestTrustless(t *testing.T) {
	s := newSite(t)
	block := string(s.block(s.root).Data())
	a := s.do(t, "GET", s.addr, "/ipfs/"+s.root.String()+"?format=raw")
	a.want(t, 200, block)
	a.wantHeader(t, "Content-Type", "application/vnd.ipld.raw")
	s.do(t, "GET", s.addr, "/ipfs/"+s.root.String(), "Accept: application/vnd.ipld.raw").want(t, 200, block)
	a = s.do(t, "GET", s.addr, "/ipfs/"+s.root.String()+"?format=car")
	if a.StatusCode != 200 || a.bodyErr != nil || len(a.body) < len(big) {
		t.Errorf("CAR: %d, %d bytes (%v)", a.StatusCode, len(a.body), a.bodyErr)
	}
	// A CID can be the block.
	s.do(t, "GET", s.addr, "/ipfs/bafkqabtimvwgy3yk").want(t, 200, "hello\n")
}

func TestRefusedCIDs(t *testing.T) {
	s := newSite(t)
	weak, err := multihash.Sum([]byte("x"), multihash.MURMUR3X64_64, -1)
	if err != nil {
		t.Fatal(err)
	}
	a := s.do(t, "GET", s.addr, "/ipfs/"+cid.NewCidV1(cid.Raw, weak).String())
	a.wantStatus(t, http.StatusBadRequest)
}
