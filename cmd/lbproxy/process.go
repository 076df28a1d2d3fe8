package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	// Processes that a command leaves behind get SIGTERM, and SIGKILL after this.
	leftoverPatience = 10 * time.Second
	leftoverPoll     = 20 * time.Millisecond

	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

// A process is a command in a process group of its own: Ctrl-C in a terminal goes to the foreground group, and must
// not reach the command before it is deregistered. For the same reason the command cannot read from a terminal.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the command and its whole group have ended
}

func newProcess(command []string, stdin io.Reader, stdout, stderr io.Writer) *process {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.SysProcAttr = processAttributes()
	return &process{cmd: cmd, exited: make(chan struct{})}
}

// start starts the command; the error is an *exitError.
func (p *process) start() error {
	started := make(chan error)
	go func() { // ends when the command ends
		// To the kernel the end of this thread is the end of the parent, see processAttributes.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // ProcessState has the same and more
		p.endGroup()
		close(p.exited)
	}()
	err := <-started
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &exitError{code: exitNotFound, err: err}
	}
	return &exitError{code: exitNotExecutable, err: err}
}

// signal signals the command and the processes it has started, unless they have ended.
func (p *process) signal(s os.Signal) {
	select {
	case <-p.exited: // the number may already belong to another group
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s.(syscall.Signal)) // fails only while the group is ending
	}
}

// endGroup ends the processes that the command has left behind in its group.
func (p *process) endGroup() {
	group := -p.cmd.Process.Pid
	err := syscall.Kill(group, syscall.SIGTERM)
	for deadline := time.Now().Add(leftoverPatience); err == nil; err = syscall.Kill(group, 0) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(group, syscall.SIGKILL)
			return
		}
		time.Sleep(leftoverPoll)
		// As process 1 of a container we inherit orphans, which remain until they are waited for.
		_, _ = syscall.Wait4(group, nil, syscall.WNOHANG, nil)
	}
}

// exitCode is the command's, once it has exited.
func (p *process) exitCode() int {
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignal + int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}
