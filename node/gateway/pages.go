package gateway

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/dustin/go-humanize"
)

var (
	//go:embed page.css
	pageCSS string
	//go:embed home.html
	homeHTML string
	//go:embed error.html
	errorHTML string

	homeTemplate  = template.Must(template.New("home").Parse(homeHTML))
	errorTemplate = template.Must(template.New("error").Parse(errorHTML))

	// pagePolicy lets the gateway's own pages load and run nothing: all they have
	// is the style sheet inside them, which the policy names by its hash.
	pagePolicy = func() string {
		sum := sha256.Sum256([]byte(pageCSS))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

func setPageHeaders(h http.Header) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
}

// homeSite is a Site as the home page shows it.
type homeSite struct {
	Target, Root, URL, State, Size string
}

// serveHome lists the sites of this node. It says what its user mirrors, so no
// other origin may read it: it has no CORS header.
func (g *gateway) serveHome(w http.ResponseWriter, r *http.Request, o origin) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "read only: GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	sites := g.sites()
	rows := make([]homeSite, len(sites))
	for i, s := range sites {
		rows[i] = homeSite{Target: s.Target, State: s.State}
		if s.Bytes > 0 {
			rows[i].Size = humanize.Bytes(uint64(s.Bytes))
		}
		if s.Missing > 0 {
			rows[i].State = fmt.Sprintf("%s, %s blocks missing", s.State, humanize.Comma(int64(s.Missing)))
		}
		if !s.Root.Defined() {
			continue
		}
		rows[i].Root = s.Root.String()
		rows[i].URL = "/ipfs/" + rows[i].Root + "/"
		if own := ownOrigin(r, o, s.Root); own != "" {
			rows[i].URL = "http://" + own + "/"
		}
	}
	var page bytes.Buffer
	err := homeTemplate.Execute(&page, struct {
		Style template.CSS
		Sites []homeSite
	}{template.CSS(pageCSS), rows})
	if err != nil {
		panic(err) // writes to memory, and data that the template knows
	}
	setPageHeaders(w.Header())
	w.Write(page.Bytes())
}

// errorPage explains an error to a person.
func errorPage(r *http.Request, code int, message string, unavailable bool) []byte {
	data := struct {
		Style                         template.CSS
		Code                          int
		Title, Explain, Message, Root string
	}{
		Style:   template.CSS(pageCSS),
		Code:    code,
		Title:   http.StatusText(code),
		Explain: "The gateway cannot answer this request.",
		Message: message,
	}
	switch {
	case unavailable && code == http.StatusNotFound:
		data.Title = "Not held here"
		data.Explain = "This node holds no copy of this part of the site, and is not connected to nodes that could have one."
		data.Root = requestRoot(r)
	case unavailable && code == http.StatusGatewayTimeout:
		data.Title = "Out of reach"
		data.Explain = "This node holds no copy of this part of the site, and none of the nodes it can reach sent one in time. Reload to try again."
		data.Root = requestRoot(r)
	case unavailable && code == http.StatusInternalServerError:
		data.Title = "Unreadable"
		data.Explain = "This node failed to read its own copy. Its log says more."
	case code == http.StatusBadRequest:
		data.Title = "Bad address"
		data.Explain = "No site can have this address."
	case code == http.StatusNotFound:
		data.Title = "No such page"
		data.Explain = "This version of the site has nothing at this address."
	case code == http.StatusMisdirectedRequest:
		data.Title = "Unknown host"
		data.Explain = "Sites could otherwise pose as this gateway."
	case code == http.StatusTooManyRequests:
		data.Title = "Busy"
		data.Explain = "The gateway serves as many requests as it may. Reload in a moment."
	case code == http.StatusNotImplemented:
		data.Title = "Not supported"
	}
	var page bytes.Buffer
	if err := errorTemplate.Execute(&page, data); err != nil {
		panic(err) // as in serveHome
	}
	return page.Bytes()
}

// requestRoot returns the CID of the site that r asks for, or "".
func requestRoot(r *http.Request) string {
	o, ok := parseHost(r.Host)
	if !ok {
		return ""
	}
	id := o.label
	if o.kind == originGateway {
		id, _, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/ipfs/"), "/")
	}
	root, err := parseRoot(id)
	if err != nil {
		return ""
	}
	return root.String()
}
