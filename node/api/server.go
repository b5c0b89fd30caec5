package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	maxRequest    = 64 << 10               // bytes of a request's body
	progressEvery = 100 * time.Millisecond // between two progress events of one phase
)

// The paths of the API. Those with a request take POST and its JSON, the others
// GET. All answer with an event stream. But a block comes as its bytes, and a CAR
// is sent as its bytes.
const (
	pathAdd      = "/v1/add"
	pathImport   = "/v1/import"
	pathFollow   = "/v1/follow"
	pathUnfollow = "/v1/unfollow"
	pathFetch    = "/v1/fetch"
	pathMirrors  = "/v1/mirrors"
	pathGC       = "/v1/gc"
	pathCheck    = "/v1/check"
	pathRepair   = "/v1/repair"
	pathConnect  = "/v1/connect"
	pathStatus   = "/v1/status"
	pathPeers    = "/v1/peers"
	pathID       = "/v1/id"
	pathBlock    = "/v1/block" // ?cid=CID&timeout=DURATION
)

// Content types of requests and event streams, of blocks and of CARs.
const (
	typeJSON   = "application/json"
	typeEvents = "application/x-ndjson"
	typeBlock  = "application/vnd.ipld.raw"
	typeCAR    = "application/vnd.ipld.car"
)

// unfollowRequest and connectRequest carry the argument of the method.
type (
	unfollowRequest struct {
		Target string `json:"target"`
	}
	connectRequest struct {
		Addr string `json:"addr"`
	}
)

// nothing is the result of a method that returns none.
type nothing struct{}

// errShutdown is what requests are told that the end of the daemon cut short.
var errShutdown = errors.New("the daemon is shutting down")

// NewServer returns a server that answers for svc; serve it on a listener from
// Listen. A request ends when its client disconnects, and with the server's
// BaseContext, which the caller sets and ends before Shutdown: that would
// otherwise wait for clients that wait for a mirror. What goes wrong below HTTP
// is logged to log; errors of svc go to the client alone.
func NewServer(svc Service, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           newHandler(svc),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

func newHandler(svc Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathAdd, handle(svc.Add))
	mux.HandleFunc("POST "+pathImport, func(w http.ResponseWriter, r *http.Request) { serveImport(w, r, svc) })
	mux.HandleFunc("POST "+pathFollow, handle(svc.Follow))
	mux.HandleFunc("POST "+pathFetch, handle(svc.Fetch))
	mux.HandleFunc("POST "+pathMirrors, handle(svc.Mirrors))
	mux.HandleFunc("POST "+pathUnfollow, handle(
		func(ctx context.Context, req unfollowRequest, _ func(Progress)) (nothing, error) {
			return nothing{}, svc.Unfollow(ctx, req.Target)
		}))
	mux.HandleFunc("POST "+pathCheck, handle(svc.Check))
	mux.HandleFunc("POST "+pathRepair, handle(svc.Repair))
	mux.HandleFunc("POST "+pathGC, handle(
		func(ctx context.Context, _ nothing, progress func(Progress)) (GCResult, error) {
			return svc.GC(ctx, progress)
		}))
	mux.HandleFunc("POST "+pathConnect, handle(
		func(ctx context.Context, req connectRequest, _ func(Progress)) (Peer, error) {
			return svc.Connect(ctx, req.Addr)
		}))
	mux.HandleFunc("GET "+pathStatus, get(svc.Status))
	mux.HandleFunc("GET "+pathPeers, get(svc.Peers))
	mux.HandleFunc("GET "+pathID, get(svc.ID))
	mux.HandleFunc("GET "+pathBlock, func(w http.ResponseWriter, r *http.Request) { serveBlock(w, r, svc) })
	return mux
}

// handle answers a method that takes a request and reports progress.
func handle[Req, Res any](method func(context.Context, Req, func(Progress)) (Res, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if err := readRequest(w, r, &req); err != nil {
			writeError(w, r, err)
			return
		}
		res, err := method(r.Context(), req, reporter(w))
		finish(w, r, res, err)
	}
}

// reporter returns a progress function that sends events, not too many.
func reporter(w http.ResponseWriter) func(Progress) {
	var last Progress
	var sent time.Time
	return func(p Progress) {
		if p.Phase == last.Phase && time.Since(sent) < progressEvery {
			return
		}
		last, sent = p, time.Now()
		writeEvent(w, event{Progress: &p})
	}
}

// get answers a method without a request.
func get[Res any](method func(context.Context) (Res, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		res, err := method(r.Context())
		finish(w, r, res, err)
	}
}

// serveImport takes a CAR of any length.
func serveImport(w http.ResponseWriter, r *http.Request, svc Service) {
	if err := checkType(r, typeCAR); err != nil {
		writeError(w, r, err)
		return
	}
	ctl := http.NewResponseController(w)
	// Progress goes out while the CAR comes in.
	if err := ctl.EnableFullDuplex(); err != nil {
		writeError(w, r, err)
		return
	}
	// A client that holds back the rest must not hold up a shutdown.
	stop := context.AfterFunc(r.Context(), func() { ctl.SetReadDeadline(time.Now()) })
	defer stop()
	res, err := svc.Import(r.Context(), r.Body, reporter(w))
	finish(w, r, res, err)
}

func serveBlock(w http.ResponseWriter, r *http.Request, svc Service) {
	query := r.URL.Query()
	c, err := cid.Decode(query.Get("cid"))
	if err != nil {
		writeError(w, r, fmt.Errorf("%w: cid: %w", ErrUsage, err))
		return
	}
	timeout, err := time.ParseDuration(query.Get("timeout"))
	if err != nil {
		writeError(w, r, fmt.Errorf("%w: timeout: %w", ErrUsage, err))
		return
	}
	b, err := svc.Block(r.Context(), c, timeout)
	if err != nil {
		writeError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", typeBlock)
	w.Header().Set("Content-Length", strconv.Itoa(len(b.Data())))
	w.Write(b.Data()) // a client that left gets nothing, and that is all
}

// readRequest unmarshals the body of r into req. Its errors wrap ErrUsage.
func readRequest(w http.ResponseWriter, r *http.Request, req any) error {
	if err := checkType(r, typeJSON); err != nil {
		return err
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(req); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	// The server only notices that a client leaves once the body is read to its end.
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value", ErrUsage)
	}
	return nil
}

// checkType fails with ErrUsage unless the body of r is of type want.
func checkType(r *http.Request, want string) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != want {
		return fmt.Errorf("%w: the content type must be %s", ErrUsage, want)
	}
	return nil
}

// finish ends an event stream with res, or with err if there is one.
func finish(w http.ResponseWriter, r *http.Request, res any, err error) {
	if err != nil {
		writeError(w, r, err)
		return
	}
	data, err := json.Marshal(res)
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeEvent(w, event{Result: data})
}

// writeError ends an event stream with err. The HTTP status, which curl users
// see, is only set if no progress went out before.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		err = errShutdown // or the client has left, and reads nothing
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", typeEvents)
		w.WriteHeader(httpStatus(err))
	}
	writeEvent(w, event{Error: encodeError(err)})
}

func httpStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrUsage):
		return http.StatusBadRequest
	case errors.Is(err, ErrQuota):
		return http.StatusInsufficientStorage
	case errors.Is(err, ErrUnreachable):
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// eventPatience is how long a client that does not read may hold up the work that
// it is told of.
const eventPatience = 30 * time.Second

// writeEvent sends e at once. Errors are left out: a client that cannot be
// written to has gone, and its request's context ends for it.
func writeEvent(w http.ResponseWriter, e event) {
	w.Header().Set("Content-Type", typeEvents)
	ctl := http.NewResponseController(w)
	ctl.SetWriteDeadline(time.Now().Add(eventPatience))
	json.NewEncoder(w).Encode(e) // one line
	ctl.Flush()
}
