package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/lbproxy/lbproxy/discovery"
	"github.com/lbproxy/lbproxy/discovery/dialect"
	"github.com/lbproxy/lbproxy/discovery/etcd"
	"github.com/lbproxy/lbproxy/discovery/registrar"
	"github.com/lbproxy/lbproxy/internal/portowner"
	"github.com/lbproxy/lbproxy/internal/terminal"
)

// answerPatience is how long a server that is started together with its registration may take to listen.
const answerPatience = 2 * time.Second

// registration is the flags of register.
type registration struct {
	etcd          etcdFlags
	service       string
	instance      discovery.Instance
	ttl           time.Duration
	weightAddress string
	startTimeout  time.Duration
	drainWait     time.Duration
}

func newRegisterCommand() *cobra.Command {
	var r registration
	cmd := &cobra.Command{
		Use:   "register --name SERVICE --addr HOST:PORT [flags] [-- COMMAND [ARG]...]",
		Short: "Register a process in etcd, and optionally start and stop it",
		Long: `Register any process, in any language, as an instance of a service.

Without a COMMAND the instance is registered until SIGINT or SIGTERM.

With a COMMAND, register starts it, registers the instance once its address accepts connections, and
deregisters it when the command ends. At SIGINT or SIGTERM it deregisters first, waits for --drain-wait so that
no proxy sends a new call any longer, and then passes the signal on; a second signal ends the wait. SIGHUP,
SIGQUIT, SIGUSR1 and SIGUSR2 are passed on at once. The command runs in a process group of its own, gets its
signals as a group, and leaves nothing behind there when it ends. Its input and output are those of register,
whose own messages go to standard error.

register exits as the command did, with 128+N when signal N ended it. Otherwise it exits with 0 when all went
well, 1 after a failure and 2 when its usage is wrong; with 127 when there is no such command, with 126 when it
cannot be started.`,
		Example: `  # Register a server that runs already
  lbproxy register --name hello --addr 10.0.0.7:1001

  # Start a server and register it while it runs
  lbproxy register --name hello --addr 10.0.0.7:1001 --version 1.0.0 --weight 10 -- ./hello-server --port 1001

  # Change the weight while it runs; 0 drains it
  lbproxy register --name hello --addr 10.0.0.7:1001 --weight-address 127.0.0.1:7075 -- ./hello-server &
  curl -X PUT 'http://127.0.0.1:7075/?weight=0'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 0 || dash < 0 && len(args) > 0 {
				return fmt.Errorf("argument %q stands before --; the command to run goes after it", args[0])
			}
			if cmd.ArgsLenAtDash() == 0 && len(args) == 0 {
				return errors.New("no command stands after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, command []string) error { return r.run(cmd, command) },
	}
	flags := cmd.Flags()
	flags.StringVar(&r.service, "name", "", "service that the instance belongs to")
	flags.StringVar(&r.instance.Addr, "addr", "", "host:port where proxies reach the instance")
	flags.StringVar(&r.instance.Version, "version", "", "version of the instance")
	r.instance.Weight = discovery.DefaultWeight
	flags.Var((*weight)(&r.instance.Weight), "weight", "share of the calls, 0 (drained) to 65535")
	flags.DurationVar(&r.ttl, "ttl", 10*time.Second, "how long the registration outlives a crash")
	flags.StringVar(&r.weightAddress, "weight-address", "", "host:port to serve the weight on, for GET and PUT ?weight=N")
	flags.DurationVar(&r.startTimeout, "start-timeout", time.Minute, "how long the command may take to accept connections")
	flags.DurationVar(&r.drainWait, "drain-wait", 3*time.Second, "time between deregistering and stopping the command")
	r.etcd.add(cmd)
	for _, name := range []string{"name", "addr"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // no such flag
		}
	}
	return cmd
}

// weight is the value of a flag.
type weight int

func (w *weight) String() string { return strconv.Itoa(int(*w)) }
func (w *weight) Type() string   { return "int" }

func (w *weight) Set(text string) error {
	n, err := dialect.ParseWeight(text)
	*w = weight(n)
	return err
}

func (r *registration) run(cmd *cobra.Command, command []string) error {
	if r.ttl <= 0 || r.startTimeout <= 0 || r.drainWait < 0 {
		return usageError(errors.New("--ttl, --start-timeout and --drain-wait are times; only the last may be 0"))
	}
	log := zap.New(terminal.NewLogCore(cmd.ErrOrStderr(), zap.InfoLevel))
	client, err := etcd.NewClient(r.etcd.config(), log)
	if err != nil {
		return usageError(err)
	}
	defer client.Close()
	registrar, err := registrar.New(client, r.service, r.instance,
		registrar.Options{TTL: r.ttl, Log: log})
	if err != nil {
		return usageError(err)
	}
	if r.weightAddress != "" {
		stop, err := serveWeight(r.weightAddress, registrar, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	if discovery.IsLoopback(r.instance.Addr) && slices.ContainsFunc(r.etcd.etcd.Endpoints, isRemote) {
		log.Warn("the address is loopback and etcd is not: to each other host that sees this registration, the address "+
			"means itself; register one at which others reach this host", zap.String("addr", r.instance.Addr))
	}
	if len(command) > 0 {
		s := &supervisor{
			log: log, registrar: registrar, addr: r.instance.Addr, startTimeout: r.startTimeout, drainWait: r.drainWait,
		}
		return s.run(cmd.Context(), newProcess(command, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()))
	}
	return registerUntilSignal(cmd.Context(), registrar, r.instance.Addr, log)
}

// isRemote reports whether an etcd endpoint is on another host, as far as its address tells.
func isRemote(endpoint string) bool {
	if scheme, _, _ := strings.Cut(endpoint, ":"); scheme == "unix" || scheme == "unixs" {
		return false
	}
	_, host, isURL := strings.Cut(endpoint, "://")
	if !isURL {
		host = endpoint
	}
	return !discovery.IsLoopback(strings.TrimRight(host, "/"))
}

func registerUntilSignal(ctx context.Context, registrar *registrar.Registrar, addr string, log *zap.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, heeded(syscall.SIGINT)...)
	defer stop()
	registrar.Start()
	if !acceptsWithin(ctx, addr, answerPatience) && ctx.Err() == nil {
		log.Warn("nothing accepts connections at the address, which is registered all the same; "+
			"check it, or start the server there", zap.String("addr", addr), zap.Duration("after", answerPatience))
	}
	<-ctx.Done()
	stop() // a second signal ends the process at once
	return registrar.Stop(context.WithoutCancel(ctx))
}

// serveWeight serves the registrar's weight until stop is called.
func serveWeight(address string, registrar *registrar.Registrar, log *zap.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--weight-address: %w", portowner.Explain(err, address))
	}
	server := &http.Server{Handler: registrar.WeightHandler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() { // ends when stop closes server
		defer close(served)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the weight is no longer served", zap.Error(err))
		}
	}()
	log.Info("serving the weight", zap.Stringer("address", l.Addr()))
	return func() {
		server.Close()
		<-served
	}, nil
}
