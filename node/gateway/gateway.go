package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/boxo/blockservice"
	boxo "github.com/ipfs/boxo/gateway"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multibase"
	"github.com/prometheus/client_golang/prometheus"

	"pollux/blockstore"
)

const (
	// RetrievalTimeout is how long a reader waits for the first byte, and then
	// for each next one, before the gateway gives up.
	RetrievalTimeout = 30 * time.Second
	// StallTimeout is how long one write to a reader (at most 32 KiB) may take.
	StallTimeout = 60 * time.Second
	// MaxRequests is how many requests are served at once; more get 429.
	MaxRequests = 1024
	// maxLoads is how many blocks a request may load without sending a byte. It
	// bounds what a directory made to explode (few blocks, many entries) costs,
	// and with it the length of a generated listing: about 10,000 entries as
	// directories are usually sharded.
	maxLoads = 1024
)

// Getter hands over verified blocks. An error of Get wraps
// blockstore.ErrNotFound if the block is not held and nobody was asked, and
// api.ErrUnreachable if nobody had it. Get returns soon after ctx ends.
type Getter interface {
	Get(ctx context.Context, c cid.Cid) (blockstore.Block, error)
}

// Site is a line of the home page.
type Site struct {
	Target  string  // as the user named it
	Root    cid.Cid // undefined while unknown
	State   string  // one word, such as "whole"
	Bytes   int64   // contents of all files; 0 while unknown
	Missing int     // blocks still to fetch
}

// Config says what a gateway serves.
type Config struct {
	Blocks Getter
	Sites  func() []Site // for the home page; nil: it lists none
	Logger *slog.Logger  // nil: nothing is logged
}

// gateway routes requests by Host and path, and leaves content to boxo.
type gateway struct {
	sites     func() []Site
	log       *slog.Logger
	paths     http.Handler // /ipfs/CID/path on any host
	hostnames http.Handler // CID.ipfs.localhost, and the redirect from localhost
	limits    limits
}

// limits are what the constants above say, or less in tests.
type limits struct {
	retrieval, stall time.Duration
	requests         int
}

// New returns a handler that serves the sites that cfg.Blocks has.
func New(cfg Config) (http.Handler, error) {
	return newGateway(cfg, limits{RetrievalTimeout, StallTimeout, MaxRequests})
}

func newGateway(cfg Config, lim limits) (*gateway, error) {
	if cfg.Sites == nil {
		cfg.Sites = func() []Site { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	registerTypes()
	// Without an exchange, as the Getter already is what asks the network: boxo
	// would ask a second time for each block that is missing.
	backend, err := boxo.NewBlocksBackend(
		blockservice.New(blocks{cfg.Blocks, cfg.Logger}, nil),
		boxo.WithNameSystem(noNames{}))
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	// RetrievalTimeout of boxo stays off: it writes a message of its own into
	// the body that it cuts, which can end up looking like content.
	bcfg := boxo.Config{
		DeserializedResponses: true,
		NoDNSLink:             true,
		DisableHTMLErrors:     true, // see response.finish
		PublicGateways: map[string]*boxo.PublicGateway{
			"localhost": {Paths: []string{"/ipfs"}, UseSubdomains: true, NoDNSLink: true, DeserializedResponses: true},
		},
		MaxConcurrentRequests: lim.requests,
		MaxRequestDuration:    30 * 24 * time.Hour, // a response ends for lack of progress, not for its length
		MetricsRegistry:       prometheus.NewRegistry(),
	}
	content := boxo.NewHandler(bcfg, backend)
	cors := boxo.NewHeaders(nil).ApplyCors()
	return &gateway{
		sites:     cfg.Sites,
		log:       cfg.Logger,
		paths:     cors.Wrap(content),
		hostnames: cors.Wrap(boxo.NewHostnameHandler(bcfg, backend, content)),
		limits:    lim,
	}, nil
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// No request has a body here, and net/http would wait for its end.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout))
		w.Header().Set("Connection", "close")
		http.Error(w, "requests with a body are refused", http.StatusBadRequest)
		return
	}
	l := &loads{}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), loadsKey{}, l))
	defer cancel(nil)
	timer := time.AfterFunc(g.limits.retrieval, func() { cancel(errNoProgress) })
	defer timer.Stop()

	clean := cleanRequest(ctx, r)
	rw := newResponse(w, clean, l, timer, g.limits)
	g.route(rw, clean.Clone(ctx)) // boxo writes to its request's URL
	if rw.retry {
		rw.reset()
		clean.Header.Del("Range")
		g.route(rw, clean.Clone(ctx))
	}
	rw.finish()
}

// cleanRequest returns r, with ctx, without what boxo would misunderstand.
func cleanRequest(ctx context.Context, r *http.Request) *http.Request {
	r = r.Clone(ctx)
	// Only a reverse proxy may override the Host, and none is meant to be here.
	r.Header.Del("X-Forwarded-Host")
	r.Header.Del("X-Forwarded-Proto")
	cleanRange(r.Header)
	if r.URL.Path == "" { // "GET http://host HTTP/1.1", as sent to a proxy
		r.URL.Path = "/"
	}
	// boxo takes ?uri= for a protocol handler's redirect wherever it stands, and
	// would refuse the pages of a site that uses that parameter for itself.
	if q := r.URL.Query(); q.Has("uri") {
		q.Del("uri")
		r.URL.RawQuery = q.Encode()
	}
	r.RequestURI = r.URL.RequestURI()
	return r
}

// route answers by Host: a site's own origin, or the gateway itself.
func (g *gateway) route(w http.ResponseWriter, r *http.Request) {
	o, ok := parseHost(r.Host)
	if !ok {
		http.Error(w, fmt.Sprintf("this gateway does not answer for %q; open it as http://localhost or by its IP address", r.Host),
			http.StatusMisdirectedRequest)
		return
	}
	if err := checkPath(r.URL.Path); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Host = o.host
	switch o.kind {
	case originName:
		refuseName(w)
	case originSite:
		if _, err := parseRoot(o.label); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		g.hostnames.ServeHTTP(w, r)
	case originGateway:
		g.routePath(w, r, o)
	}
}

// routePath answers for the gateway's own origin.
func (g *gateway) routePath(w http.ResponseWriter, r *http.Request, o origin) {
	ns, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/":
		g.serveHome(w, r, o)
	case ns == "ipns":
		refuseName(w)
	case ns == "ipfs":
		g.servePath(w, r, o, rest)
	default:
		http.Error(w, "no such page; sites are below /ipfs/", http.StatusNotFound)
	}
}

// servePath answers /ipfs/ID/path, where rest is ID/path: with a redirect to the
// site's own origin, or in place and sandboxed.
func (g *gateway) servePath(w http.ResponseWriter, r *http.Request, o origin, rest string) {
	id, path, _ := strings.Cut(rest, "/")
	root, err := parseRoot(id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if own := ownOrigin(r, o, root); own != "" {
		if o.name {
			g.hostnames.ServeHTTP(w, r) // redirects, as the subdomain gateway specification has it
			return
		}
		w.Header().Set("Vary", "Sec-Fetch-Mode")
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			u := url.URL{Scheme: "http", Host: own, Path: "/" + path, RawQuery: r.URL.RawQuery}
			http.Redirect(w, r, u.String(), http.StatusTemporaryRedirect)
			return
		}
	}
	if r.Header.Get("Service-Worker") != "" {
		http.Error(w, "service workers run only in a site's own origin", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Security-Policy", sandbox)
	g.paths.ServeHTTP(w, r)
}

// sandbox keeps documents that share a host apart: without allow-same-origin
// each has an opaque origin.
const sandbox = "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads"

// ownOrigin returns the host of root's own origin, with the port by which r
// came, or "" if the browser behind r would not get there.
func ownOrigin(r *http.Request, o origin, root cid.Cid) string {
	label := dnsLabel(root)
	if !o.loopback || label == "" || isWebKit(r) {
		return ""
	}
	return label + ".ipfs.localhost" + o.port
}

// isWebKit tells Safari, and others that resolve names as it does, from browsers
// that resolve *.localhost by themselves but call themselves Safari too.
func isWebKit(r *http.Request) bool {
	agent := r.UserAgent()
	return strings.Contains(agent, "Safari/") && !strings.Contains(agent, "Chrome/") && !strings.Contains(agent, "Chromium/")
}

// dnsLabel writes c as one label of a host name: CIDv1 in base32, or in base36
// where that is longer than the 63 bytes that a label has. It returns "" if
// neither fits.
func dnsLabel(c cid.Cid) string {
	c = cid.NewCidV1(c.Type(), c.Hash())
	for _, base := range []multibase.Encoding{multibase.Base32, multibase.Base36} {
		if s, err := c.StringOfBase(base); err == nil && len(s) <= 63 {
			return s
		}
	}
	return ""
}

// parseRoot reads the CID of a site.
func parseRoot(s string) (cid.Cid, error) {
	c, err := cid.Decode(s)
	if err != nil {
		return cid.Undef, fmt.Errorf("%q is not a CID", s)
	}
	return c, blockstore.CheckCID(c)
}

// checkPath refuses paths that would leave the site. boxo joins the path to the
// root and then resolves "..", so /..%2FOTHER in one site's origin would run the
// pages of another; browsers resolve only dots that no encoded slash follows. A
// path that begins with two slashes would become a redirect to another host.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsRune(path, 0) {
		return errBadPath
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == ".." {
			return errBadPath
		}
	}
	return nil
}

var errBadPath = errors.New(`a path begins with one slash and holds no ".." and no NUL`)

func refuseName(w http.ResponseWriter) {
	http.Error(w, "names (/ipns) are not resolved by this gateway; open the site by its CID", http.StatusNotImplemented)
}
