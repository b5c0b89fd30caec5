package node

import (
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

const (
	// PublicNetwork is the name of the network that all IPFS nodes share.
	PublicNetwork = "public"
	// None stands for "nothing of the kind": no gateway, no bootstrap peers.
	None = "none"

	// maxConfigSize bounds a configuration file, in bytes.
	maxConfigSize = 1 << 20
	// maxConnections bounds ConnectionsHigh.
	maxConnections = 100_000
)

// Config is all that a user can set about a node. It holds no secret, so it can
// be shown. Use DefaultConfig, ParseConfig or LoadConfig to make one: the zero
// Config is not valid.
//
// Each field has one key, which names it in the file (port_mapping), and in
// capitals in the environment (POLLUX_PORT_MAPPING).
type Config struct {
	Listen          []string     // listen: multiaddrs to accept peers on; empty: port 4801, TCP and QUIC, on all addresses that the machine has
	Bootstrap       []string     // bootstrap: multiaddrs with /p2p/; empty: those the network usually has; None alone: no one
	Gateway         string       // gateway: host:port of the HTTP gateway, where the host is an IP address or localhost; or None
	DHT             DHTMode      // dht
	Network         string       // network: 1 to 64 of a-z, 0-9 and "-"; any but PublicNetwork is a DHT of its own
	Announce        AnnounceMode // announce
	MDNS            bool         // mdns: find peers on the local network
	PortMapping     bool         // port_mapping: ask the router for a port, by UPnP or NAT-PMP
	ConnectionsLow  int          // connections_low: connections to peers that stay when there are too many
	ConnectionsHigh int          // connections_high: more than these are too many
	Disk            Size         // disk: most that the blocks may take; 0: no limit
	MinFree         Size         // min_free: least that stays free on their file system
	LogLevel        LogLevel     // log_level
}

// DefaultConfig returns what holds where a user says nothing.
func DefaultConfig() Config {
	return Config{
		Gateway:     "127.0.0.1:8080",
		DHT:         DHTAuto,
		Network:     PublicNetwork,
		Announce:    AnnounceAll,
		MDNS:        true,
		PortMapping: true,
		// Home routers keep a small table of connections for everyone behind them,
		// and some fall over when one machine fills it.
		ConnectionsLow:  32,
		ConnectionsHigh: 96,
		// A full disk takes down whatever else the machine is for.
		MinFree:  256 << 20,
		LogLevel: LogWarn,
	}
}

// LoadConfig reads the file at path, if there is one, and then what env says,
// which is os.LookupEnv outside of tests. A variable that is empty counts as not
// set; POLLUX_LISTEN and POLLUX_BOOTSTRAP separate addresses with commas. Errors
// name the file and the line, or the variable. The result still needs Check,
// after what else the caller sets in it.
func LoadConfig(path string, env func(string) (string, bool)) (Config, error) {
	data, err := readConfig(path)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(path, data)
	if err != nil {
		return Config{}, err
	}
	for _, s := range c.settings() {
		name := "POLLUX_" + strings.ToUpper(s.key)
		if text, ok := env(name); ok && text != "" {
			if err := s.setText(text); err != nil {
				return Config{}, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return c, nil
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// ParseConfig reads a configuration file's text (TOML) over the defaults. name
// stands for the file in errors, as in
//
//	config.toml:7: unknown key "gatway" (did you mean "gateway"?)
func ParseConfig(name string, data []byte) (Config, error) {
	if len(data) > maxConfigSize {
		return Config{}, fmt.Errorf("%s: larger than %d bytes", name, maxConfigSize)
	}
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ := syntax.Position()
			return Config{}, fmt.Errorf("%s:%d: %s", name, line, strings.TrimPrefix(syntax.Error(), "toml: "))
		}
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	c := DefaultConfig()
	settings := c.settings()
	lines := make(map[string]int) // of the keys
	// toml keeps no lines, so a second pass over the keys is what finds them.
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		expr := p.Expression()
		if expr.Kind == unstable.Comment {
			continue
		}
		key := expr.Key()
		key.Next()
		k := string(key.Node().Data)
		i := slices.IndexFunc(settings, func(s setting) bool { return s.key == k })
		var err error
		if i < 0 {
			err = errUnknown(k, settings)
		} else {
			err = settings[i].setValue(values[k])
		}
		line := p.Shape(key.Node().Raw).Start.Line
		if err != nil {
			return Config{}, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		lines[k] = line
	}
	// If only one of the two is here, the other may still come from elsewhere.
	low, high := lines["connections_low"], lines["connections_high"]
	if err := c.checkTogether(); err != nil && low > 0 && high > 0 {
		return Config{}, fmt.Errorf("%s:%d: %w", name, max(low, high), err)
	}
	return c, nil
}

// Check refuses values that are not allowed, and values that contradict each
// other. LoadConfig and ParseConfig see to the former themselves.
func (c Config) Check() error {
	for _, s := range c.settings() {
		if err := s.check(); err != nil {
			return fmt.Errorf("%s: %w", s.key, err)
		}
	}
	return c.checkTogether()
}

// checkTogether refuses values that contradict each other.
func (c Config) checkTogether() error {
	if c.ConnectionsLow > c.ConnectionsHigh {
		return fmt.Errorf("connections_low (%d) is above connections_high (%d)", c.ConnectionsLow, c.ConnectionsHigh)
	}
	return nil
}

// setting ties a field to its key, and to what it may hold.
type setting struct {
	key   string
	field any          // pointer to it
	check func() error // of the field as it is
}

func (c *Config) settings() []setting {
	return []setting{
		{"listen", &c.Listen, func() error { return checkListen(c.Listen) }},
		{"bootstrap", &c.Bootstrap, func() error { return checkBootstrap(c.Bootstrap) }},
		{"gateway", &c.Gateway, func() error { return checkGateway(c.Gateway) }},
		{"dht", &c.DHT, func() error { return c.DHT.check() }},
		{"network", &c.Network, func() error { return checkNetwork(c.Network) }},
		{"announce", &c.Announce, func() error { return c.Announce.check() }},
		{"mdns", &c.MDNS, func() error { return nil }},
		{"port_mapping", &c.PortMapping, func() error { return nil }},
		{"connections_low", &c.ConnectionsLow, func() error { return checkConnections(c.ConnectionsLow) }},
		{"connections_high", &c.ConnectionsHigh, func() error { return checkConnections(c.ConnectionsHigh) }},
		{"disk", &c.Disk, func() error { return nil }},
		{"min_free", &c.MinFree, func() error { return nil }},
		{"log_level", &c.LogLevel, func() error { return c.LogLevel.check() }},
	}
}

// setValue sets the field to a value as package toml decodes it.
func (s setting) setValue(v any) error {
	err := s.assign(v)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.key, err)
	}
	return nil
}

func (s setting) assign(v any) error {
	switch field := s.field.(type) {
	case *[]string:
		list, ok := v.([]any)
		if !ok {
			return errors.New(`not a list of strings, such as ["a", "b"]`)
		}
		*field = make([]string, len(list))
		for i, item := range list {
			if (*field)[i], ok = item.(string); !ok {
				return fmt.Errorf("%v in the list is not a string", item)
			}
		}
	case *bool:
		b, ok := v.(bool)
		if !ok {
			return errors.New("neither true nor false")
		}
		*field = b
	case *int:
		n, ok := v.(int64)
		if !ok || int64(int(n)) != n {
			return errors.New("not a whole number")
		}
		*field = int(n)
	case *string:
		text, ok := v.(string)
		if !ok {
			return errNotString
		}
		*field = text
	case encoding.TextUnmarshaler:
		text, ok := v.(string)
		if !ok {
			return errNotString
		}
		return field.UnmarshalText([]byte(text))
	}
	return nil
}

var errNotString = errors.New("not a string in quotes")

// setText sets the field to what a variable of the environment says.
func (s setting) setText(text string) error {
	switch field := s.field.(type) {
	case *[]string:
		*field = strings.Split(text, ",")
		for i, item := range *field {
			(*field)[i] = strings.TrimSpace(item)
		}
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*field = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*field = n
	case *string:
		*field = text
	case encoding.TextUnmarshaler:
		return field.UnmarshalText([]byte(text))
	}
	return s.check()
}

func checkListen(addrs []string) error {
	for _, s := range addrs {
		a, err := ma.NewMultiaddr(s)
		if err != nil || len(a) == 0 {
			return errAddr(s)
		}
		if code := a[0].Code(); code != ma.P_IP4 && code != ma.P_IP6 {
			return fmt.Errorf("%q does not begin with /ip4/ or /ip6/, so it is nothing to listen on", s)
		}
		if _, err := a.ValueForProtocol(ma.P_P2P); err == nil {
			return fmt.Errorf("%q is the address of a peer (/p2p/), not one to listen on", s)
		}
	}
	return nil
}

func checkBootstrap(addrs []string) error {
	for _, s := range addrs {
		if s == None {
			if len(addrs) > 1 {
				return fmt.Errorf("%q stands beside addresses; it stands alone", None)
			}
			return nil
		}
		a, err := ma.NewMultiaddr(s)
		if err != nil || len(a) == 0 {
			return errAddr(s)
		}
		if a[len(a)-1].Code() != ma.P_P2P {
			return fmt.Errorf("%q does not end in /p2p/ and the peer's ID", s)
		}
	}
	return nil
}

func errAddr(s string) error {
	return fmt.Errorf("%q is not a multiaddr, such as /ip4/192.0.2.1/tcp/4801", s)
}

func checkGateway(s string) error {
	if s == None {
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is neither host:port, such as 127.0.0.1:8080, nor %q", s, None)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return fmt.Errorf("the host of %q is neither an IP address nor localhost", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port of %q is not a number from 0 to 65535", s)
	}
	return nil
}

var networkName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

func checkNetwork(s string) error {
	if !networkName.MatchString(s) {
		return fmt.Errorf(`%q is not 1 to 64 of the characters a-z, 0-9 and "-"`, s)
	}
	return nil
}

func checkConnections(n int) error {
	if n < 1 || n > maxConnections {
		return fmt.Errorf("%d is not from 1 to %d", n, maxConnections)
	}
	return nil
}

// errUnknown reports a key that is none of settings', and the one that was most
// likely meant.
func errUnknown(key string, settings []setting) error {
	best, distance := "", 3 // more edits than that, and it is another word
	for _, s := range settings {
		if d := edits(key, s.key); d < distance {
			best, distance = s.key, d
		}
	}
	if best == "" {
		return fmt.Errorf("unknown key %q", key)
	}
	return fmt.Errorf("unknown key %q (did you mean %q?)", key, best)
}

// edits returns how many bytes to insert, delete or replace to make a into b, or
// some larger number than 2 if their lengths differ by more than 2.
func edits(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3
	}
	row := make([]int, len(b)+1) // of the prefix of a so far, to each prefix of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
