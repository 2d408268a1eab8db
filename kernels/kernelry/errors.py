"""What kernelry raises. Each class has a stable `code`; each message says what to do next.

What a user's code raised is data (see models.ExecutionError), never one of these.
"""


class KernelryError(Exception):
    """Something went wrong in kernelry."""

    #: stable snake_case name of the condition, for programs
    code = "error"
    #: whether the same call may succeed later without a change
    retryable = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class InvalidArgumentError(KernelryError):
    """An argument has a value that can't be used."""

    code = "invalid_argument"


class NotFoundError(KernelryError):
    """No such thing."""

    code = "not_found"


class SessionNotFoundError(NotFoundError):
    """No session has this id."""

    code = "session_not_found"


class ExecutionNotFoundError(NotFoundError):
    """No execution has this id."""

    code = "execution_not_found"


class CheckpointNotFoundError(NotFoundError):
    """No checkpoint has this id."""

    code = "checkpoint_not_found"


class ScriptNotFoundError(NotFoundError):
    """No script has this path."""

    code = "script_not_found"


class WorkspaceFileNotFoundError(NotFoundError):
    """No file of the workspace has this path."""

    code = "file_not_found"


class ArtifactNotFoundError(NotFoundError):
    """No artifact has this id or name."""

    code = "artifact_not_found"


class ConflictError(KernelryError):
    """The request does not fit the present state."""

    code = "conflict"


class SessionExistsError(ConflictError):
    """A session with this id exists already."""

    code = "session_exists"


class TransitionError(ConflictError):
    """A session can't have this status after the one that it has."""

    code = "invalid_transition"


class SessionBusyError(ConflictError):
    """The session runs code, and this can only be done between two cells."""

    code = "session_busy"
    retryable = True


class FileExistsConflictError(ConflictError):
    """A file with this name exists already."""

    code = "file_exists"


class NotAFileError(ConflictError):
    """What has this path is no regular file: a folder, a link, a device."""

    code = "not_a_file"


class LimitExceededError(KernelryError):
    """A limit of this server is reached."""

    code = "limit_exceeded"


class FileTooLargeError(LimitExceededError):
    """The file is larger than what is read of one."""

    code = "file_too_large"


class FileAccessError(KernelryError):
    """The system does not let this file be read or written."""

    code = "file_access"


class KernelError(KernelryError):
    """A kernel did not do what it should."""

    code = "kernel_error"


class KernelStartError(KernelError):
    """The kernel did not start."""

    code = "kernel_start_failed"


class KernelDeadError(KernelError):
    """The session's kernel is dead."""

    code = "kernel_dead"

    def __init__(self, message: str, *, session_id: str = "") -> None:
        super().__init__(message)
        #: whose kernel it was, if it died before it was asked for anything
        self.session_id = session_id


class KernelSilentError(KernelError):
    """The kernel did not answer in time."""

    code = "kernel_silent"
    retryable = True


class IsolationError(KernelryError):
    """A session can't be kept apart as it was asked for."""

    code = "isolation_unavailable"


class CheckpointError(KernelryError):
    """A namespace could not be saved, or not be put back."""

    code = "checkpoint_failed"


class CheckpointDamagedError(CheckpointError):
    """The file of a checkpoint is not what this server wrote."""

    code = "checkpoint_damaged"


class InstallError(KernelryError):
    """The session's environment could not be prepared."""

    code = "install_failed"


class StoreError(KernelryError):
    """The state directory can't be used."""

    code = "store_error"


class IdTakenError(KernelryError):
    """There is something else with this id."""

    code = "id_taken"


class IntegrityError(KernelryError):
    """The content of an artifact is not what was stored."""

    code = "integrity"


class StateDirHeldError(StoreError):
    """Another server owns this state directory."""

    code = "state_dir_held"
