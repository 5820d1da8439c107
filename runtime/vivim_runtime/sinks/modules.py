"""What a derived DICOM object takes over from its source, module by module of the standard (PS3.3 A.51.3).

Patient and study are those of the source. Of its series only what tells the body part goes along, since our series is
new: who scanned, with which protocol and in which step of the procedure is not who segmented (Clinical Trial Series,
C.7.3.2, and General Equipment, C.7.5.1, likewise). Nothing private is taken, nor what a module does not list.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

__all__ = ["MODULES", "Module", "copy_modules"]


@dataclass(frozen=True)
class Module:
    """Attributes of a module by keyword.

    Attributes:
        section: of PS3.3.
        type2: those that have to be there, empty where they are not known.
        others: of any other type, copied where they are there.
        mandatory: whether every object has the module; of the others, none is begun that the source does not have.
    """

    name: str
    section: str
    type2: tuple[str, ...]
    others: tuple[str, ...]
    mandatory: bool = True

    @property
    def keywords(self) -> tuple[str, ...]:
        return (*self.type2, *self.others)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MODULES = (
    Module(
        "Patient",
        "C.7.1.1",
        _words("PatientName PatientID PatientBirthDate PatientSex"),
        _words(
            "ReferencedPatientSequence IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence "
            "SourcePatientGroupIdentificationSequence GroupOfPatientsIdentificationSequence PatientBirthTime "
            "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar "
            "QualityControlSubject StrainDescription StrainNomenclature StrainStockSequence "
            "StrainAdditionalInformation StrainCodeSequence GeneticModificationsSequence OtherPatientNames "
            "OtherPatientIDsSequence ReferencedPatientPhotoSequence EthnicGroupCodeSequence "
            "PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence "
            "BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization "
            "PatientComments PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
            "EthnicGroup"  # of earlier editions, in older files
        ),
    ),
    Module(
        "Clinical Trial Subject",
        "C.7.1.3",
        _words("ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName"),
        _words(
            "ClinicalTrialSponsorName ClinicalTrialProtocolID IssuerOfClinicalTrialProtocolID "
            "OtherClinicalTrialProtocolIDsSequence IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID "
            "IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID IssuerOfClinicalTrialSubjectReadingID "
            "ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolEthicsCommitteeApprovalNumber"
        ),
        mandatory=False,
    ),
    Module(
        "General Study",
        "C.7.2.1",
        _words("StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID"),
        _words(
            "StudyInstanceUID IssuerOfAccessionNumberSequence ReferringPhysicianIdentificationSequence "
            "ConsultingPhysicianName ConsultingPhysicianIdentificationSequence StudyDescription "
            "ProcedureCodeSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence "
            "NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence ReferencedStudySequence "
            "RequestingService RequestingServiceCodeSequence ReasonForPerformedProcedureCodeSequence"
        ),
    ),
    Module(
        "Patient Study",
        "C.7.2.2",
        (),
        _words(
            "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize "
            "PatientSizeCodeSequence PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension PatientWeight "
            "MedicalAlerts Allergies Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus "
            "LastMenstrualDate PatientSexNeutered ReasonForVisit ReasonForVisitCodeSequence AdmissionID "
            "IssuerOfAdmissionIDSequence ServiceEpisodeID ServiceEpisodeDescription "
            "IssuerOfServiceEpisodeIDSequence PatientState"
        ),
        mandatory=False,
    ),
    Module(
        "Clinical Trial Study",
        "C.7.2.3",
        _words("ClinicalTrialTimePointID"),
        _words(
            "ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent LongitudinalTemporalEventType "
            "ClinicalTrialTimePointTypeCodeSequence IssuerOfClinicalTrialTimePointID "
            "ConsentForClinicalTrialUseSequence"
        ),
        mandatory=False,
    ),
    Module(
        # The part of it that tells of the body, without Laterality: a segmentation must not have it (dciodvfy).
        "General Series",
        "C.7.3.1",
        (),
        _words("AnatomicalOrientationType BodyPartExamined"),
    ),
    Module(
        "Frame of Reference",
        "C.7.4.1",
        _words("PositionReferenceIndicator"),
        _words("FrameOfReferenceUID"),
        mandatory=False,
    ),
    Module(
        "General Image",  # the part of it that tells of the body
        "C.7.6.1",
        _words("PatientOrientation"),
        _words("ImageLaterality"),
    ),
    Module(
        "SOP Common",  # in which characters and time zone the others are written, and what became of their dates
        "C.12.1",
        (),
        _words("SpecificCharacterSet TimezoneOffsetFromUTC LongitudinalTemporalInformationModified"),
    ),
)


def copy_modules(source: Any, target: Any) -> list[str]:
    """Copy what a source has of the modules, without private attributes, also of those within sequences.

    Args:
        source, target: pydicom data sets.

    Returns:
        Keywords of attributes whose values cannot be read: they are left out, or empty where they have to be there.
    """
    unreadable: list[str] = []
    for module in MODULES:
        present = [keyword for keyword in module.keywords if keyword in source]
        if not present and not module.mandatory:
            continue
        unreadable += _copy(source, target, present)
        for keyword in module.type2:
            if keyword not in target:
                setattr(target, keyword, None)
    return unreadable


def _copy(source: Any, target: Any, keywords: Iterable[str]) -> list[str]:
    unreadable = []
    for keyword in keywords:
        try:
            element = deepcopy(source[keyword])
            if element.VR == "SQ":
                for item in element.value:
                    item.remove_private_tags()
        except Exception:  # pydicom interprets values when they are asked for, and raises what they lead it to
            unreadable.append(keyword)
        else:
            target[keyword] = element
    return unreadable
